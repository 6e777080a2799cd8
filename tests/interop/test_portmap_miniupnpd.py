"""Port mapping against miniupnpd behind a real NAT: what it grants is used from outside, renewed, and given back.

home ── router (miniupnpd, nft masquerade) ── outside
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing.deployment import until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import Program, run_program

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
    pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="miniupnpd is not installed"),
]
NODE = Path(__file__).parent / "programs" / "portmap_node.py"
OUTSIDE = "45.67.89.0/24"
"""miniupnpd refuses reserved addresses on its outside; nothing leaves the namespaces."""
RULES = """
table inet filter {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    iifname "%(inside)s" accept
    ct state established,related accept
    jump miniupnpd
  }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting {
    type nat hook postrouting priority 100;
    jump postrouting_miniupnpd
    oifname "%(outside)s" masquerade
  }
}
"""


@dataclass
class House:
    """A home behind a router, and somebody outside."""

    folder: Path
    home: Host
    router: Host
    outside: Host
    inside_device: str
    outside_device: str
    outside_address: str
    exits: ExitStack
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "miniupnpd.log"

    def start_daemon(self, *options: str, allow: str = "allow 1024-65535 0.0.0.0/0 1024-65535") -> None:
        config = self.folder / "miniupnpd.conf"
        lines = [
            f"ext_ifname={self.outside_device}",
            f"ext_ip={self.outside_address}",
            f"listening_ip={self.inside_device}",
            "http_port=0",
            "notify_interval=900",
            allow,
            "deny 0-65535 0.0.0.0/0 0-65535",
            "uuid=00000000-0000-0000-0000-000000000001",
            *options,
        ]
        config.write_text("\n".join(lines) + "\n")
        pid = self.folder / "miniupnpd.pid"
        pid.unlink(missing_ok=True)
        command = ["miniupnpd", "-d", "-f", str(config), "-P", str(pid)]
        with self.log.open("ab") as log:
            self.daemon = self.router.spawn(*command, stdout=log, stderr=subprocess.STDOUT)
        port = ":5351 " if "enable_natpmp=yes" in options else ":1900 "
        until("miniupnpd listens", lambda: port in self.router.run("ss", "-Hlun"))

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(60)
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            self.router.run("nft", "flush", "chain", "inet", "filter", chain)

    def start_node(self, protocols: str, lifetime: int = 7200, *more: str) -> Program:
        command = (sys.executable, str(NODE), protocols, str(lifetime), *more)
        return self.exits.enter_context(run_program(*command, host=self.home))

    def forwards(self) -> list[str]:
        """The rules that lead from outside to inside."""
        listing = self.router.run("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")
        return re.findall(r"^.*dnat.*$", listing, re.MULTILINE)

    def send_from_outside(self, address: str, text: str) -> None:
        host, _, port = address.rpartition(":")
        code = "import socket,sys;socket.socket(2,2).sendto(sys.argv[3].encode(),(sys.argv[1],int(sys.argv[2])))"
        self.outside.run(sys.executable, "-c", code, host, port, text)

    def map(self, protocols: str = "pmp,pcp,upnp", lifetime: int = 7200, *more: str) -> tuple[Program, str]:
        """A node, and the address that it publishes once its port is open."""
        node = self.start_node(protocols, lifetime, *more)
        address: str = node.event("published")["addresses"][0]
        return node, address


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Lab() as lab, ExitStack() as exits:
        home, router, outside = lab.host("home"), lab.host("router"), lab.host("outside")
        lab.switch(router, home, net4="192.168.7.0/24")
        lab.switch(router, outside, net4=OUTSIDE)
        home.run("ip", "route", "add", "default", "via", "192.168.7.1")
        router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        devices = [device_of(router, "192.168.7.1"), device_of(router, "45.67.89.1")]
        rules = tmp_path / "rules.nft"
        rules.write_text(RULES % {"inside": devices[0], "outside": devices[1]})
        router.run("nft", "-f", str(rules))
        yield House(tmp_path, home, router, outside, devices[0], devices[1], "45.67.89.1", exits)


def device_of(host: Host, address: str) -> str:
    """The interface that has an address."""
    found = re.search(rf"^\d+: (\S+)\s+inet {re.escape(address)}/", host.run("ip", "-o", "-4", "address"), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("protocols", ["pmp", "pcp", "upnp", "pmp,pcp,upnp"])
def test_a_datagram_from_outside_comes_in_and_the_rule_goes_with_the_node(house: House, protocols: str) -> None:
    house.start_daemon("enable_natpmp=yes", "enable_upnp=yes")
    node, address = house.map(protocols, 7200, "probe")
    assert node.event("probe") == {"event": "probe", "gateway": "192.168.7.1", "found": ["pcp", "pmp", "upnp"]}
    port = node.event("port")["port"]
    assert address == f"45.67.89.1:{port}"  # our own port is asked for, and was free
    (rule,) = house.forwards()
    assert f"dport {port} dnat ip to 192.168.7.2:{port}" in rule
    house.send_from_outside(address, "hello")
    assert node.event("datagram")["text"] == "hello"
    assert node.events("facts")[-1]["mapped"] is True
    assert set(node.events("facts")[-1]["protocols"]) <= set(protocols.split(","))

    node.process.send_signal(signal.SIGTERM)
    assert node.wait() == 0
    assert house.forwards() == []


def test_igd_1_is_served_as_well(house: House) -> None:
    house.start_daemon("enable_natpmp=no", "enable_upnp=yes", "force_igd_desc_v1=yes")
    node, address = house.map("upnp")
    house.send_from_outside(address, "hello")
    assert node.event("datagram")["text"] == "hello"
    node.stop()
    assert house.forwards() == []


@pytest.mark.parametrize(("dropped", "taken"), [("0x00", "pcp"), ("0x02", "pmp")])
def test_a_gateway_that_is_silent_in_one_protocol_is_asked_in_the_other(house: House, dropped: str, taken: str) -> None:
    house.router.run("nft", "add chain inet filter input { type filter hook input priority 0; }")
    house.router.run("nft", f"add rule inet filter input udp dport 5351 @th,64,8 {dropped} drop")
    house.start_daemon("enable_natpmp=yes", "enable_upnp=no")
    node, _ = house.map()
    assert node.wait_for(r"^port mapping: \S+ by (\w+)$")[1] == taken


def test_a_gateway_with_upnp_only_is_asked_by_upnp(house: House) -> None:
    house.start_daemon("enable_natpmp=no", "enable_upnp=yes")
    node, _ = house.map()
    assert node.wait_for(r"^port mapping: \S+ by (\w+)$")[1] == "upnp"


def test_a_gateway_that_refuses_by_its_rules_leaves_us_without_and_without_harm(house: House) -> None:
    house.start_daemon("enable_natpmp=no", "enable_upnp=yes", allow="")
    node = house.start_node("pmp,pcp,upnp")
    node.wait_for(r"^port mapping: none; upnp: fault-\d+$")
    assert node.events("published") == []
    assert node.events("facts")[-1]["protocols"] == ["upnp"]
    assert node.events("facts")[-1]["mapped"] is False
    node.stop()
    node.event("released")


def test_mappings_are_renewed_and_those_of_the_dead_lapse(house: House) -> None:
    house.start_daemon("enable_natpmp=yes", "enable_upnp=yes", "min_lifetime=20")
    alive = [house.map(protocol, lifetime=20) for protocol in ("pmp", "pcp", "upnp")]
    dead, _ = house.map("pmp", lifetime=20)
    assert len(house.forwards()) == 4
    dead.process.kill()
    until("the dead one's rule is gone", lambda: len(house.forwards()) < 4)
    for node, address in alive:
        house.send_from_outside(address, "still here")
        assert node.event("datagram")["text"] == "still here"
        assert len(node.events("published")) == 1


def test_a_restarted_gateway_gets_its_mappings_back_within_seconds(house: House) -> None:
    house.start_daemon("enable_natpmp=yes", "enable_upnp=yes")
    started = time.monotonic()
    nodes = [house.map(protocol) for protocol in ("pmp", "pcp", "upnp")]
    # Epochs are in seconds, and clocks may disagree by two: a younger gateway's restart cannot be seen.
    until("the gateway is 4 s old", lambda: time.monotonic() - started > 4)
    rules = sorted(house.forwards())
    assert len(rules) == 3
    house.kill_daemon()
    assert house.forwards() == []
    house.start_daemon("enable_natpmp=yes", "enable_upnp=yes")
    until("all three are back", lambda: sorted(house.forwards()) == rules)
    for node, address in nodes:
        house.send_from_outside(address, "back")
        assert node.event("datagram")["text"] == "back"
        assert len(node.events("published")) == 1  # nothing changed for our peers

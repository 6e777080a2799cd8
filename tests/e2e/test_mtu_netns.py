"""Links that carry less than others, in real kernels, where routers keep silent about it (ICMP is dropped).

User and agent reach the server by one Ethernet, where UDP between them is dropped; their only direct way leads through
two routers. What the cable between those carries is what is tested.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, Registered, until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import Program
from coder_agent.testing.waiting import WaitMeter

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]
PROGRAMS = Path(__file__).parent / "programs"
PACE = 5_000_000
SECONDS = 15
WITHOUT_OFFLOAD = {"CODER_PLUGIN_TRANSPORT_UDP__OFFLOAD": "off"}
"""Every packet of data is then one that no router may fragment, as probes always are."""
DIRECT_ONLY_BY_WAN = """
table inet cut {
    chain arriving {
        type filter hook input priority 0;
        iifname != { "wan", "lo" } meta l4proto udp drop
    }
}
"""
SILENT = """
table ip silent {
    chain leaving {
        type filter hook output priority 0;
        icmp type destination-unreachable drop
    }
}
"""


@dataclass
class Narrow:
    """The place, and the routers on the direct way."""

    place: Deployment
    routers: tuple[Host, Host]
    waits: WaitMeter

    def carries(self, mtu: int) -> None:
        """From now on, the cable in the middle takes packets of up to `mtu` bytes; both ends drop what is larger."""
        for router in self.routers:
            router.run("ip", "link", "set", "mid", "mtu", str(mtu))

    def longest_pause(self, transfer: Program, since: float) -> float:
        """The longest time without news of bytes, less what our programs waited for a processor."""
        times: list[float] = [event["at"] for event in transfer.events("progress") if event["at"] >= since]
        return max(after - before - self.waits.between(before, after) for before, after in itertools.pairwise(times))

    def transfer(self, dev: Registered, direction: str, seconds: int = SECONDS) -> Program:
        """Bytes at an even pace for so long, once there is a direct path."""
        server = self.place.start(self.place.workspace, sys.executable, str(PROGRAMS / "bytes_server.py"))
        port = str(server.event("listening")["port"])
        flags = ["--direct", "--size", str(PACE * seconds), "--pace", str(PACE)]
        program = str(PROGRAMS / "transfer.py")
        return self.place.start(self.place.user, sys.executable, program, dev.name, port, direction, *flags)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Narrow]:
    with Lab() as lab:
        server, user, agent = lab.host("server"), lab.host("user"), lab.host("agent")
        near, far = lab.host("near"), lab.host("far")
        lab.switch(server, user, agent)
        lab.cable(user, "wan", near, "lan")
        lab.cable(near, "mid", far, "mid")
        lab.cable(far, "lan", agent, "wan")
        user.batch("address add 10.91.0.2/24 dev wan", "route add 10.92.0.0/24 via 10.91.0.1")
        agent.batch("address add 10.92.0.2/24 dev wan", "route add 10.91.0.0/24 via 10.92.0.1")
        near.batch("address add 10.91.0.1/24 dev lan", "address add 10.93.0.1/24 dev mid")
        near.batch("route add 10.92.0.0/24 via 10.93.0.2")
        far.batch("address add 10.92.0.1/24 dev lan", "address add 10.93.0.2/24 dev mid")
        far.batch("route add 10.91.0.0/24 via 10.93.0.1")
        for router in (near, far):
            router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            router.filter(SILENT)
        for end in (user, agent):
            end.filter(DIRECT_ONLY_BY_WAN)
        with Deployment(tmp_path, server.address4, (server, user, agent)) as deployment:
            deployment.start_server()
            deployment.sign_in()
            with WaitMeter(lambda: deployment.programs) as waits:
                yield Narrow(deployment, (near, far), waits)


def newest(transfer: Program, event: str) -> dict[str, Any]:
    return transfer.events(event)[-1]


def until_packets_are_of(transfer: Program, size: int) -> None:
    transfer.event("path")
    until(f"packets are of {size} bytes", lambda: newest(transfer, "path")["tunnel_mtu"] == size)


def until_it_moves(transfer: Program, since: float) -> None:
    """Until bytes arrive after the time `since`."""

    def look() -> bool:
        assert transfer.process.poll() is None, transfer.output[-4000:]
        events = transfer.events("progress")
        return bool(events) and events[-1]["at"] > since

    until("bytes move", look)


def test_a_link_too_small_for_the_tunnel_is_not_used_and_named(narrow: Narrow) -> None:
    """1300 bytes: IPv6 inside knows nothing smaller than 1280, and WireGuard adds 60."""
    narrow.carries(1300)
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    ping = narrow.place.user.coder("ping", "dev", "-n", "14", "--wait", "1s", "-o", "json", timeout=90)
    assert ping.code == 0, str(ping)
    document = ping.json()
    assert document["verdict"]["path"] == "relayed", str(ping)
    assert document["verdict"]["code"] == "low_mtu_path", str(ping)
    path = narrow.place.user.coder("path", "dev", "-o", "json", timeout=90)
    assert path.code == 0, str(path)


def test_a_link_of_1400_carries_the_tunnel_at_what_fits(narrow: Narrow) -> None:
    narrow.carries(1400)
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    transfer = narrow.transfer(dev, "put")
    until_packets_are_of(transfer, 1340)
    until_it_moves(transfer, time.monotonic() + 1)
    assert {event["tunnel_mtu"] for event in transfer.events("path")} <= {1280, 1340}
    assert newest(transfer, "path")["kind"] == "direct"
    assert transfer.event("done", 90)["equal"] is True


@pytest.mark.parametrize("direction", ["get", "put"])
def test_a_link_that_shrinks_to_1400_in_mid_transfer_costs_a_moment(narrow: Narrow, direction: str) -> None:
    narrow.place.extra |= WITHOUT_OFFLOAD
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    transfer = narrow.transfer(dev, direction)
    until_packets_are_of(transfer, 1440)
    until_it_moves(transfer, time.monotonic() + 1)
    narrow.carries(1400)
    shrunk = time.monotonic()
    if direction == "put":
        until_packets_are_of(transfer, 1340)
    until_it_moves(transfer, shrunk + 3)
    until("it is direct", lambda: newest(transfer, "path")["kind"] == "direct")
    assert narrow.longest_pause(transfer, shrunk - 0.5) <= 2.0
    assert transfer.event("done", 90)["equal"] is True


def test_where_routers_may_fragment_it_costs_nothing_and_is_noticed_by_heartbeats(narrow: Narrow) -> None:
    """The kernel does not forbid fragments of what it cuts up itself (UDP_SEGMENT, IPv4): the router makes two of each
    packet, nothing is lost, and the lost probes tell that smaller ones would do better."""
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    transfer = narrow.transfer(dev, "put", seconds=30)
    until_packets_are_of(transfer, 1440)
    narrow.carries(1400)
    shrunk = time.monotonic()
    until_packets_are_of(transfer, 1340)
    assert narrow.longest_pause(transfer, shrunk - 0.5) <= 2.0
    assert transfer.event("done", 90)["equal"] is True


def test_a_link_that_shrinks_to_1300_in_mid_transfer_moves_it_to_the_relay(narrow: Narrow) -> None:
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    transfer = narrow.transfer(dev, "get")
    until_packets_are_of(transfer, 1440)
    until_it_moves(transfer, time.monotonic() + 1)
    narrow.carries(1300)
    shrunk = time.monotonic()
    until("it is relayed", lambda: newest(transfer, "path")["kind"] == "relayed")
    until_it_moves(transfer, time.monotonic() + 1)
    assert newest(transfer, "path")["tunnel_mtu"] == 1280
    assert narrow.longest_pause(transfer, shrunk - 0.5) <= 2.0
    assert transfer.event("done", 90)["equal"] is True


def test_switched_off_everything_stays_at_1280(narrow: Narrow) -> None:
    narrow.place.extra["CODER_LARGE_PACKETS"] = "false"
    dev = narrow.place.create("dev")
    narrow.place.start_agent(dev)
    transfer = narrow.transfer(dev, "get")
    until_it_moves(transfer, time.monotonic() + 4)
    assert {event["tunnel_mtu"] for event in transfer.events("path")} == {1280}
    assert transfer.event("done", 90)["equal"] is True

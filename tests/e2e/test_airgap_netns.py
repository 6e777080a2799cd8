"""What leaves the site? Every packet that does crosses one wire, where tcpdump listens.

server, user, agent on a switch; its router leads to "the Internet", a namespace that has every address there is. The
site's own DNS server tells what it is asked.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Machine, Registered, until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.netns_capture import Capture, capture, find_tcpdump
from coder_agent.testing.processes import Program

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(find_tcpdump() is None, reason="tcpdump is not installed"),
]
NAME = "coder.corp.test"
FORWARDED = "(ip or ip6) and not src net fe80::/10 and not src net fd99::/64"
"""All but what the router's kernel says about itself on its own link (neighbours, groups)."""
AIRGAP = {"CODER_AIRGAP": "true"}
PUBLIC = {"CODER_PLUGIN_NAT_TRAVERSAL__ENDPOINTS": "203.0.113.9:4242,[2001:db8::9]:4242"}
"""What a node that has been elsewhere may publish about itself."""
QUIET_SECONDS = 8.0
"""How long an idle deployment is watched: two rounds of heartbeats, a retry of every dial."""


@dataclass
class Named(Deployment):
    """A deployment whose access URL is a name."""

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://{NAME}:{self.port}"


@dataclass(slots=True)
class Site:
    """The deployment, the wire to the outside, and the site's DNS server."""

    place: Named
    router: Host
    dns: Program
    folder: Path

    def asked(self) -> set[str]:
        """Names that were looked up."""
        return set(re.findall(r"^asked (\S+)$", self.dns.output, re.MULTILINE))

    @contextmanager
    def watching(self) -> Iterator[Capture]:
        """Record what leaves."""
        with capture(self.router, "out", self.folder, FORWARDED) as found:
            yield found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Machines and routes; nothing runs but DNS."""
    with Lab() as lab:
        hosts = lab.host("server"), lab.host("user"), lab.host("agent")
        router, internet = lab.host("router"), lab.host("internet")
        lab.switch(*hosts, router)
        connect(lab, hosts, router, internet)
        with resolvers(hosts, router.address4), Named(tmp_path, hosts[0].address4, hosts) as place:
            place.port, place.stun_port = 8080, 3478
            dns = place.start(
                Machine(tmp_path / "router", router),
                *(sys.executable, "-m", "coder_agent.testing.netns_dns", router.address4),
                f"{NAME}={hosts[0].address4}",
            )
            dns.wait_for("^listening$")
            yield Site(place, router, dns, tmp_path)


def connect(lab: Lab, hosts: tuple[Host, ...], router: Host, internet: Host) -> None:
    """Everybody's default route leads to a machine that takes packets for every address."""
    lab.cable(router, "out", internet, "in")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    router.batch("address add 192.0.2.1/24 dev out", "address add fd99::1/64 dev out nodad")
    router.batch("route add default via 192.0.2.2", "route add default via fd99::2")
    internet.batch("address add 192.0.2.2/24 dev in", "address add fd99::2/64 dev in nodad")
    internet.batch("route add 10.77.0.0/16 via 192.0.2.1", "route add fd77::/32 via fd99::1")
    internet.batch(*(f"route add local {net} dev lo" for net in ("0.0.0.0/1", "128.0.0.0/1", "2000::/3")))
    for host in hosts:
        host.batch(f"route add default via {router.address4}", f"route add default via {router.address6}")


@contextmanager
def resolvers(hosts: tuple[Host, ...], address: str) -> Iterator[None]:
    """The machines' DNS server: what `ip netns exec` puts in the place of /etc/resolv.conf."""
    folders = [Path("/etc/netns") / host.name for host in hosts]
    try:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:1 attempts:1\n")
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


OUTSIDE_MAP = {
    "Regions": {
        "7": {
            "RegionID": 7,
            "RegionCode": "far",
            "RegionName": "Far away",
            "Nodes": [{"Name": "7a", "RegionID": 7, "HostName": "derp.outside.test"}],
        },
        "8": {
            "RegionID": 8,
            "RegionCode": "number",
            "RegionName": "By number",
            "Nodes": [
                {"Name": "8a", "RegionID": 8, "HostName": "198.51.100.9", "IPv4": "198.51.100.9", "CanPort80": True}
            ],
        },
        "9": {
            "RegionID": 9,
            "RegionCode": "stun",
            "RegionName": "Only STUN",
            "Nodes": [{"Name": "9a", "RegionID": 9, "HostName": "stun.outside.test", "STUNOnly": True}],
        },
    }
}


def outside_map(site: Site) -> str:
    """A file with relays and STUN servers outside."""
    file = site.folder / "map.json"
    file.write_text(json.dumps(OUTSIDE_MAP))
    return str(file)


def start(site: Site, *flags: str, env: Mapping[str, str] | None = None) -> Registered:
    """Server and agent; the user is signed in."""
    place = site.place
    place.start_server(*flags, verbose=True)
    place.sign_in()
    dev = place.create("dev")
    place.extra = dict(env or {})
    place.start_agent(dev)
    return dev


def session(site: Site, env: Mapping[str, str] | None = None) -> list[str]:
    """Everything that a user does; what the commands said on stderr."""
    user, said = site.place.user, []
    for command in (
        ("-v", "ping", "dev", "-n", "20", "--wait", "200ms"),
        ("-v", "--disable-direct-connections", "ping", "dev", "-n", "2", "--wait", "200ms"),
        ("-v", "speedtest", "dev", "-t", "1s"),
        ("-v", "netcheck", "-o", "json"),
    ):
        done = user.coder(*command, env=env)
        assert done.code == 0, str(done)
        said.append(done.err)
    time.sleep(QUIET_SECONDS)  # what an idle deployment does by itself
    return said


def test_by_default_nothing_leaves_and_only_the_servers_name_is_looked_up(site: Site) -> None:
    with site.watching() as seen:
        start(site)
        said = session(site)
    assert "you are connected directly" in said[0], said[0]
    assert seen.lines == []
    assert site.asked() == {NAME}


def test_with_an_air_gap_nothing_leaves_though_map_and_peers_name_the_outside(site: Site) -> None:
    env = {**AIRGAP, **PUBLIC}
    with site.watching() as seen:
        start(site, "--derp-config-path", outside_map(site), env=env)
        said = session(site, env)
    assert seen.lines == []
    assert site.asked() == {NAME}
    assert "you are connected directly" in said[0], said[0]
    assert re.search(r"refused: relay to derp\.outside\.test:443 for relay map, region 7: the name is not on", said[0])
    assert re.search(r"refused: relay to 198\.51\.100\.9:443 for relay map, region 8: a public address", said[0])
    assert re.search(r"refused: peer to 203\.0\.113\.9:4242 for peer ", said[0]), said[0]
    assert re.search(r"refused: peer to \[2001:db8::9\]:4242 for peer ", said[0])
    agent = next(program for program in site.place.programs if program.name.startswith("coder-agent"))
    assert "refused: peer to 203.0.113.9:4242 for peer " in agent.output
    assert re.search(r"refused: \S+ to stun\.outside\.test:3478", said[3]), said[3]

    told = site.place.user.coder("airgap", "check", site.place.url, "derp.outside.test", "-o", "json", env=AIRGAP)
    assert told.code == 1
    assert [answer["allowed"] for answer in json.loads(told.out)["answers"]] == [True, False]


def test_a_server_with_an_air_gap_refuses_a_map_from_outside_at_its_start(site: Site) -> None:
    site.place.extra = AIRGAP
    with site.watching() as seen:
        server = site.place.start(
            site.place.server,
            *("coder", "server", "--http-address", "127.0.0.1:0", "--data-dir", str(site.folder / "refused")),
            *("--derp-config-url", "https://maps.outside.test/derpmap/default"),
        )
        assert server.wait() == 1
    assert re.search(
        r"^error: derp_config_url: maps\.outside\.test:443 may not be reached from here: ", server.output, re.M
    )
    assert "Traceback" not in server.output
    assert seen.lines == []
    assert site.asked() == set()


def test_without_the_air_gap_the_same_session_leaves_so_the_capture_sees(site: Site) -> None:
    with site.watching() as seen:
        start(site, "--derp-config-path", outside_map(site), env=PUBLIC)
        said = session(site, PUBLIC)
        until("somebody knocks outside", lambda: site.asked() - {NAME})
    assert "refused:" not in "".join(said)
    assert {"derp.outside.test", "stun.outside.test"} <= site.asked()
    for where in (r"198\.51\.100\.53\.3478: ", r"198\.51\.100\.9\.443: ", r"203\.0\.113\.9\.4242: "):
        assert any(re.search(where, line) for line in seen.lines), where

"""How long a check takes, to the millisecond: fake sockets and relays, and a clock that jumps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import anyio
import pytest
from coder_agent_nat_traversal.interfaces import Family
from coder_agent_nat_traversal.netcheck.interface import Interface
from coder_agent_nat_traversal.netcheck.relay import Effort
from coder_agent_nat_traversal.netcheck.report import NetcheckReport, RelayCheck
from coder_agent_nat_traversal.netcheck.runner import TIMEOUT, Tools, Wishes, run_netcheck
from coder_agent_nat_traversal.netcheck.stun_probe import Sockets
from coder_agent_nat_traversal.resolver import Resolver

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import TransportBroken
from coder_agent.hooks import DialOptions
from coder_agent.http import HttpResponse
from coder_agent.protocols.stun import respond
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

US = AddrPort("203.0.113.7", 41641)
BLOCKED = math.inf


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@dataclass
class Network:
    """STUN servers by address with their delay in seconds; relays and gateway with theirs. Infinity = silence."""

    stun: dict[str, float]
    relay: float = 0.030
    gateway: float = 0.010
    sees: Callable[[AddrPort], AddrPort] = lambda server: US
    pages: dict[str, HttpResponse] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)
    pinged: list[str] = field(default_factory=list)
    _handler: Callable[[bytes], None] | None = None

    families = frozenset[Family]({"v4"})

    @contextmanager
    def open(self) -> Iterator[Sockets]:
        yield self

    def send(self, data: bytes, family: Family, destination: AddrPort) -> None:
        self.asked.append((anyio.current_time(), destination.host))
        delay = self.stun[destination.host]
        answer = respond(data, self.sees(destination))
        if delay < BLOCKED and answer is not None:
            assert self._handler is not None
            asyncio.get_running_loop().call_later(delay, self._handler, answer)

    async def listen(self, family: Family, handler: Callable[[bytes], None]) -> None:
        self._handler = handler
        await anyio.sleep_forever()

    async def ask_relay(self, node: DerpNode, options: DialOptions, effort: Effort) -> RelayCheck:
        await anyio.sleep(self.relay)
        return RelayCheck(self.relay, exchanged=True, round_trip=self.relay)

    async def ask_gateway(self, protocols: frozenset[str]) -> frozenset[str]:
        await anyio.sleep(self.gateway)
        return protocols & {"pmp"}

    async def ping(self, address: str) -> float | None:
        self.pinged.append(address)
        return None

    async def fetch(self, url: str, headers: dict[str, str]) -> HttpResponse:
        self.asked.append((anyio.current_time(), url.partition("?")[0]))
        for start, answer in self.pages.items():
            if url.startswith(start):
                return answer
        raise TransportBroken("nobody there")

    async def check(self, derp_map: DerpMap, *urls: str, wishes: Wishes | None = None) -> tuple[NetcheckReport, float]:
        """The report, and how long it took."""
        tools = Tools(
            addresses=lambda: [ip_address("192.168.1.5")],
            interfaces=lambda: (Interface("eth0", 1400, ("192.168.1.5/24",), used=True),),
            gateway=self.ask_gateway,
            ping=self.ping,
            relay=self.ask_relay,
            fetch=self.fetch,
            resolver=Resolver(_no_names),
            sockets=self.open,
        )
        started = anyio.current_time()
        report = await run_netcheck(derp_map, wishes or Wishes(captive_urls=urls), tools)
        return report, round(anyio.current_time() - started, 6)


async def _no_names(host: str, family: Family) -> str:
    raise OSError("no such name")


def regions(count: int, *, can_port_80: bool = False) -> DerpMap:
    """Regions 1, 2, … with one IPv4-only node each."""
    found = {}
    for number in range(1, count + 1):
        node = DerpNode(
            str(number), number, f"r{number}.example", ipv4=f"192.0.2.{number}", ipv6="none", can_port_80=can_port_80
        )
        found[number] = DerpRegion(number, nodes=(node,))
    return DerpMap(found)


def hosts(*delays: float) -> dict[str, float]:
    return {f"192.0.2.{number}": delay for number, delay in enumerate(delays, 1)}


async def test_a_healthy_network_takes_as_long_as_its_slowest_part() -> None:
    network = Network(hosts(0.010, 0.150, 0.080))
    report, took = await network.check(regions(3))
    assert took == 0.2  # by then it is known whether to look for a captive portal
    assert report.latencies("v4") == pytest.approx({1: 0.010, 2: 0.150, 3: 0.080})
    assert report.home == 1
    assert report.facts.udp is True
    assert report.facts.mapping_varies is False
    assert report.facts.captive_portal is False
    assert (report.facts.port_mapping, report.facts.gateway_asked, report.facts.mtu) == (frozenset({"pmp"}), True, 1400)
    assert report.seen == {US: 3}
    assert report.reachable


async def test_one_dead_server_among_others_costs_one_second() -> None:
    report, took = await Network(hosts(0.010, BLOCKED, 0.020)).check(regions(3))
    assert took == 1.0
    assert [node.stun_error for node in report.nodes] == ["", "no answer over UDP from r2.example:3478", ""]


async def test_a_far_network_gets_the_time_that_it_needs() -> None:
    report, took = await Network(hosts(0.700, 0.900, 1.400)).check(regions(3))
    assert took == pytest.approx(1.4)
    assert set(report.latencies("v4")) == {1, 2, 3}


async def test_with_udp_blocked_the_relays_latency_counts_and_three_seconds_are_enough() -> None:
    report, took = await Network(hosts(BLOCKED, BLOCKED)).check(regions(2))
    assert took == 3.0
    assert report.facts.udp is False
    assert report.facts.ipv4 is True  # over TCP
    assert report.latencies() == {1: 0.030, 2: 0.030}
    assert report.home == 1


async def test_with_everything_blocked_it_ends_all_the_same() -> None:
    network = Network(hosts(BLOCKED, BLOCKED), relay=BLOCKED, gateway=BLOCKED)
    report, took = await network.check(regions(2))
    assert took == TIMEOUT
    assert not report.reachable
    assert (report.facts.udp, report.facts.gateway_asked, report.home) == (False, None, 0)
    assert all("does not answer" in (node.relay.error if node.relay else "") for node in report.nodes)


async def test_tries_go_out_at_0_100_and_200_ms() -> None:
    network = Network(hosts(BLOCKED))
    await network.check(regions(1))
    assert [round(at, 3) for at, host in network.asked if host == "192.0.2.1"] == [0.0, 0.1, 0.2]


async def test_a_hard_nat_is_told_with_its_step() -> None:
    network = Network(
        hosts(0.010, 0.010, 0.010), sees=lambda server: AddrPort(US.host, 5000 + int(server.host[-1]) * 2)
    )
    report, _ = await network.check(regions(3))
    assert (report.facts.mapping_varies, report.facts.port_step) == (True, 2)
    assert report.facts.public_v4 == AddrPort(US.host, 5006)


async def test_every_node_of_a_region_is_asked() -> None:
    nodes = tuple(DerpNode(f"1{c}", 1, f"{c}.example", ipv4=f"192.0.2.{n}", ipv6="none") for n, c in enumerate("ab", 1))
    report, _ = await Network(hosts(0.030, 0.020)).check(DerpMap({1: DerpRegion(1, nodes=nodes)}))
    assert [node.v4 for node in report.nodes] == pytest.approx([0.030, 0.020])
    assert report.latency(1, "v4") == pytest.approx(0.020)


async def test_names_that_cannot_be_found_are_told() -> None:
    derp_map = DerpMap({1: DerpRegion(1, nodes=(DerpNode("a", 1, "gone.example"),))})
    report, _ = await Network({}, relay=BLOCKED).check(derp_map)
    assert report.nodes[0].stun_error == "the name gone.example cannot be found"


async def test_nobody_is_asked_about_a_portal_when_udp_answers() -> None:
    network = Network(hosts(0.010))
    report, _ = await network.check(regions(1, can_port_80=True), "http://example.com/204")
    assert report.facts.captive_portal is False
    assert [host for _, host in network.asked] == ["192.0.2.1"]


PAGE = "http://192.0.2.1/generate_204"
GENUINE = HttpResponse(204, {"x-tailscale-response": "response ts_r1.example"}, b"")


@pytest.mark.parametrize(
    ("pages", "captive"),
    [
        pytest.param({PAGE: GENUINE}, False, id="genuine"),
        pytest.param({PAGE: HttpResponse(302, {}, b"")}, True, id="redirected"),
        pytest.param({PAGE: HttpResponse(204, {}, b"")}, True, id="challenge-not-repeated"),
        pytest.param({}, None, id="nobody-answers"),
        pytest.param({"http://mine.example/": HttpResponse(204, {}, b"")}, False, id="configured-page"),
        pytest.param({PAGE: GENUINE, "http://mine.example/": HttpResponse(200, {}, b"buy")}, True, id="one-suffices"),
    ],
)
async def test_what_pages_say_about_a_portal(pages: dict[str, HttpResponse], captive: bool | None) -> None:
    network = Network(hosts(BLOCKED), pages=pages)
    report, _ = await network.check(regions(1, can_port_80=True), "http://mine.example/")
    assert report.facts.captive_portal is captive
    asked = [(at, host) for at, host in network.asked if host.startswith("http")]
    assert asked == [(0.2, PAGE), (0.2, "http://mine.example/")]


async def test_a_health_check_asks_every_relay_64_at_a_time() -> None:
    """A large map costs a server ten seconds per 64 dead nodes; a user's own check leaves the rest out."""
    derp_map = regions(100)
    patient = Wishes(seconds=50.0, all_relays=True, protocols=frozenset())
    report, took = await Network(hosts(*[BLOCKED] * 100), relay=10.0).check(derp_map, wishes=patient)
    assert sum(node.relay is not None and node.relay.exchanged for node in report.nodes) == 100
    assert took == 20.0
    report, _ = await Network(hosts(*[BLOCKED] * 100)).check(derp_map)
    assert sum(node.relay is not None for node in report.nodes) == 64


async def test_without_relays_on_port_80_no_third_party_is_asked() -> None:
    network = Network(hosts(BLOCKED))
    report, _ = await network.check(regions(1))
    assert report.facts.captive_portal is None
    assert [host for _, host in network.asked if host.startswith("http")] == []


async def test_lying_servers_are_not_believed() -> None:
    network = Network(hosts(0.010, 0.010, 0.010, 0.010))
    lies = {"192.0.2.1": AddrPort("127.0.0.1", 9), "192.0.2.2": AddrPort("198.51.100.66", 53)}
    network.sees = lambda server: lies.get(server.host, US)
    report, _ = await network.check(regions(4))
    assert report.facts.mapping_varies is False
    assert report.facts.public_v4 == US
    assert report.dropped == {"stun-loopback-address": 3}  # it is asked again, and lies again

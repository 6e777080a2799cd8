"""The candidate sources against a fake node, a fake network and a clock that jumps."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

import anyio
import pytest
from coder_agent_nat_traversal import plugin
from coder_agent_nat_traversal.https import HttpsAnswer
from coder_agent_nat_traversal.interfaces import Address, Family, LocalInterfaces, families_of, read_addresses, usable
from coder_agent_nat_traversal.resolver import Resolver
from coder_agent_nat_traversal.settings import NatSettings
from coder_agent_nat_traversal.sources import build_sources
from coder_agent_nat_traversal.static import StaticEndpoints
from coder_agent_nat_traversal.stun import StunSource
from pydantic import ValidationError

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePublic
from coder_agent.base.nat_facts import NatFacts
from coder_agent.base.node import Node
from coder_agent.base.paths import Path
from coder_agent.hooks import Candidate, CandidateKind, CandidateSource, DialOptions
from coder_agent.protocols.stun import respond
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

US = AddrPort("203.0.113.7", 41641)
LAN = [ip_address("10.0.0.5")]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class FakeTransport:
    """Only the ports matter here."""

    name = "fake"
    headroom = 0

    def __init__(self) -> None:
        self.ports: tuple[int | None, int | None] = (41000, 41000)

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self.ports

    def send(self, burst: Burst, path: Path) -> bool:
        raise NotImplementedError

    def open_extra(self, count: int) -> Sequence[int]:
        """No more sockets here."""
        return ()

    def close_extra(self, names: Sequence[int]) -> None:
        """Nothing to close."""

    def rebind(self) -> None:
        raise NotImplementedError

    def stats(self) -> Mapping[str, int]:
        return {}


@dataclass
class Server:
    """A STUN server: answers after `delay` seconds with what it sees (None = never)."""

    delay: float = 0.020
    sees: AddrPort | None = US
    asked: list[float] = field(default_factory=list)


class FakeContext:
    """A node as a candidate source sees it, on a network of `servers`."""

    def __init__(self, derp_map: DerpMap | None = None, servers: Mapping[AddrPort, Server] | None = None) -> None:
        self.direct = FakeTransport()
        self.map = derp_map or DerpMap()
        self.servers = dict(servers or {})
        self.published: list[tuple[float, list[Candidate]]] = []
        self.latency: dict[tuple[int, str], float] = {}
        self.varies: list[bool | None] = []
        self.facts = NatFacts()
        self.rebinds: list[str] = []
        self._handlers: list[Callable[[bytes, AddrPort, float], None]] = []
        self._refresh = asyncio.Queue[str]()
        self._refresh.put_nowait("start")

    @property
    def offered(self) -> list[AddrPort]:
        return [candidate.addr for candidate in self.published[-1][1]]

    @property
    def handlers(self) -> int:
        return len(self._handlers)

    @property
    def key(self) -> NodePublic:
        raise NotImplementedError

    def derp_map(self) -> DerpMap:
        return self.map

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        self.published.append((anyio.current_time(), list(candidates)))

    def send(self, data: bytes, addr: AddrPort) -> None:
        server = self.servers[addr]
        server.asked.append(anyio.current_time())
        if server.sees is not None:
            answer = respond(data, server.sees)
            assert answer is not None
            asyncio.get_running_loop().call_later(server.delay, self.arrive, answer, addr)

    def arrive(self, packet: bytes, source: AddrPort) -> None:
        for handler in list(self._handlers):
            handler(packet, source, anyio.current_time())

    def on_stun(self, handler: Callable[[bytes, AddrPort, float], None]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    def report_latency(self, region: int, family: Literal["v4", "v6"], seconds: float) -> None:
        self.latency[region, family] = round(seconds, 6)

    def report_mapping_varies(self, varies: bool | None) -> None:
        self.varies.append(varies)

    def report_nat(self, facts: NatFacts) -> None:
        self.facts = self.facts.updated(facts)

    def request_rebind(self, reason: str) -> None:
        self.rebinds.append(reason)

    def peers(self) -> Sequence[Node]:
        return ()

    def on_peers(self, handler: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError

    def suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        raise NotImplementedError

    def refresh(self, reason: str = "test") -> None:
        self._refresh.put_nowait(reason)

    async def wait_refresh(self) -> str:
        return await self._refresh.get()


@asynccontextmanager
async def running(source: CandidateSource, context: FakeContext) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, context)
        yield
        tasks.cancel_scope.cancel()


async def reach(seconds: float) -> None:
    """Let everything happen that is due before this moment of virtual time."""
    await anyio.sleep(max(0.0, seconds - anyio.current_time()))


def stun_source(addresses: Callable[[], Sequence[Address]] = lambda: LAN, **fields: object) -> StunSource:
    numbers = itertools.count(1)

    def rng(size: int) -> bytes:
        return next(numbers).to_bytes(size, "big")

    return StunSource(rng=rng, uniform=lambda low, high: (low + high) / 2, addresses=addresses, **fields)  # type: ignore[arg-type]


def network(*delays: float) -> FakeContext:
    """Regions 1, 2, … with one IPv4-only server each."""
    regions = {}
    servers = {}
    for number, delay in enumerate(delays, 1):
        host = f"192.0.2.{number}"
        regions[number] = DerpRegion(number, nodes=(DerpNode("a", number, "x", ipv4=host, ipv6="none"),))
        servers[AddrPort(host, 3478)] = Server(delay)
    return FakeContext(DerpMap(regions), servers)


async def test_stun_publishes_as_soon_as_the_first_server_answers() -> None:
    context = network(0.020, 0.050)
    async with running(stun_source(), context):
        await reach(1.0)
    first_at, first = context.published[0]
    assert first == [Candidate(US, CandidateKind.STUN)]
    assert first_at == pytest.approx(0.020)
    assert context.latency == {(1, "v4"): 0.020, (2, "v4"): 0.050}
    assert context.varies == [False]
    assert context.handlers == 0


async def test_stun_without_servers_sends_and_resolves_nothing() -> None:
    looked_up: list[str] = []

    async def lookup(host: str, family: Family) -> str:
        looked_up.append(host)
        return "192.0.2.1"

    region = DerpRegion(1, nodes=(DerpNode("a", 1, "relay.example", stun_port=-1),))
    context = FakeContext(DerpMap({1: region}))
    async with running(stun_source(resolver=Resolver(lookup)), context):
        await reach(100.0)
        assert context.published == [(0.0, [])]
        context.refresh()  # still answers whoever waits for fresh endpoints
        await reach(102.0)
    assert len(context.published) == 2
    assert looked_up == []


async def test_stun_starts_when_the_map_arrives() -> None:
    context, late = network(0.020), network(0.020).map
    context.map = DerpMap()
    async with running(stun_source(), context):
        await reach(5.0)
        assert context.offered == []
        context.map = late
        context.refresh("derp-map")
        await reach(5.5)
        assert context.offered == [US]


async def test_stun_repeats_while_somebody_asks_and_then_falls_silent() -> None:
    context = network(0.020)
    (server,) = context.servers.values()
    async with running(stun_source(), context):
        await reach(300.0)
        rounds = list(server.asked)
        assert [round(at) for at in rounds] == [0, 23, 46]
        context.refresh("call-me-maybe")
        await reach(301.0)
        assert len(server.asked) == 4
        await reach(330.0)
        assert len(server.asked) == 5


async def test_stun_keeps_trying_until_anybody_answers_at_all() -> None:
    context = network(0.020)
    (server,) = context.servers.values()
    server.sees = None
    async with running(stun_source(), context):
        await reach(600.0)
        rounds = [at for at in server.asked if server.asked.index(at) % 3 == 0]
        gaps = [round(later - earlier) for earlier, later in itertools.pairwise(rounds)]
        assert gaps == [26, 26, 123, 123, 123, 123]  # an idle node without UDP sends ever less
        assert context.varies == [None] * len(context.varies)
        server.sees = US
        await reach(700.0)
        assert context.offered == [US]


async def test_stun_keeps_an_endpoint_through_a_lost_round() -> None:
    context = network(0.020)
    (server,) = context.servers.values()
    async with running(stun_source(), context):
        await reach(1.0)
        server.sees = None
        context.refresh()
        await reach(100.0)
        assert context.offered == [US]
        await reach(440.0)
        assert context.offered == []


async def test_stun_answers_a_request_during_a_round_that_waits_for_a_silent_server() -> None:
    context = network(0.020, 0.020)
    context.servers[AddrPort("192.0.2.2", 3478)].sees = None
    async with running(stun_source(), context):
        await reach(0.5)
        context.refresh("call-me-maybe")
        await reach(1.5)
        assert len({round(at, 2) for at in context.servers[AddrPort("192.0.2.1", 3478)].asked}) >= 2
        assert context.published[-1][0] < 1.5


async def test_a_flood_of_requests_is_one_round_a_second() -> None:
    context = network(0.020)
    (server,) = context.servers.values()
    async with running(stun_source(), context):
        await reach(0.5)
        for _ in range(100):
            context.refresh()
        await reach(10.5)
        assert len(server.asked) <= 3


async def test_what_a_lying_server_said_is_taken_back_when_two_others_disagree() -> None:
    victim = AddrPort("198.51.100.66", 53)
    context = network(0.010, 0.020, 0.030)
    context.servers[AddrPort("192.0.2.1", 3478)].sees = victim  # and it is the fastest
    async with running(stun_source(), context):
        await reach(0.015)
        assert context.offered == [victim]
        await reach(1.0)
        assert context.offered == [US]
        context.refresh()
        await reach(3.0)
        assert victim not in context.offered
    assert context.varies == [False, False]
    assert context.facts.mapping_varies is False


async def test_without_udp_the_regions_latency_is_measured_over_https_but_not_often() -> None:
    asked: list[tuple[float, int]] = []

    async def measure(node: DerpNode, options: DialOptions) -> HttpsAnswer:
        asked.append((anyio.current_time(), node.region_id))
        await anyio.sleep(0.5)
        return HttpsAnswer(0.040, "v6") if node.region_id == 1 else HttpsAnswer(None, error="no")

    context = network(0.020, 0.020)
    for server in context.servers.values():
        server.sees = None
    async with running(stun_source(measure=measure), context):
        await reach(200.0)
        assert asked == [(3.0, 1), (3.0, 2)]
        await reach(450.0)
        assert len(asked) == 4
    assert context.latency == {(1, "v6"): 0.040}
    assert (context.facts.udp, context.facts.ipv4, context.facts.ipv6) == (False, False, True)


async def test_regions_without_stun_are_measured_over_https() -> None:
    async def measure(node: DerpNode, options: DialOptions) -> HttpsAnswer:
        return HttpsAnswer(0.010)

    context = network(0.020)
    mute = DerpRegion(7, nodes=(DerpNode("7a", 7, "seven.example", stun_port=-1),))
    context.map = DerpMap({**context.map.regions, 7: mute})
    async with running(stun_source(measure=measure), context):
        await reach(5.0)
    assert context.latency == {(1, "v4"): 0.020, (7, "v4"): 0.010}
    alone = FakeContext(DerpMap({7: mute}))
    async with running(stun_source(measure=measure), alone):
        await reach(10.0)
    assert alone.latency == {(7, "v4"): 0.010}, "people are shown how far the relay is, if there is no choice either"


async def test_facts_follow_the_first_round() -> None:
    context = network(0.010, 0.010, 0.010)
    for number, server in enumerate(context.servers.values()):
        server.sees = AddrPort(US.host, 5000 + 2 * number)
    async with running(stun_source(), context):
        await reach(1.0)
    assert context.facts == NatFacts(
        udp=True, ipv4=True, mapping_varies=True, port_step=2, public_v4=AddrPort(US.host, 5004)
    )


async def test_a_hard_nat_is_reported_and_its_one_off_ports_are_not_offered() -> None:
    context = network(0.020, 0.030, 0.040)
    for number, server in enumerate(context.servers.values()):
        server.sees = AddrPort(US.host, 50000 + number)
    async with running(stun_source(guess_local_port=True), context):
        await reach(1.0)
    assert context.varies == [True]
    assert context.published[-1][1] == [
        Candidate(AddrPort(US.host, 50000), CandidateKind.STUN),
        Candidate(AddrPort(US.host, 41000), CandidateKind.STUN_LOCAL_PORT),
    ]


async def test_another_network_asks_every_region_again() -> None:
    here: list[Address] = list(LAN)
    context = network(0.010, 0.020, 0.030, 0.040)
    far = context.servers[AddrPort("192.0.2.4", 3478)]
    async with running(stun_source(addresses=lambda: here), context):
        await reach(29.0)
        assert len(far.asked) == 1  # the later round left it out
        here[0] = ip_address("10.9.9.9")
        await reach(32.0)
        assert len(far.asked) == 2


async def test_host_names_are_looked_up_with_a_limit_and_remembered() -> None:
    asked: list[tuple[str, str]] = []

    async def lookup(host: str, family: Family) -> str:
        asked.append((host, family))
        if host == "slow.example":
            await anyio.sleep(60)
        if host == "gone.example":
            raise OSError("no such name")
        return "192.0.2.1"

    nodes = [DerpNode("a", n, host) for n, host in enumerate(("good.example", "slow.example", "gone.example"), 1)]
    context = network(0.020)
    context.map = DerpMap({node.region_id: DerpRegion(node.region_id, nodes=(node,)) for node in nodes})
    async with running(stun_source(resolver=Resolver(lookup)), context):
        await reach(40.0)
    assert context.latency == {(1, "v4"): 0.020}
    assert asked.count(("good.example", "v4")) == 1
    assert asked.count(("gone.example", "v4")) > 1
    assert {family for _, family in asked} == {"v4"}  # the host has no IPv6


async def test_what_nobody_asked_for_is_ignored() -> None:
    context = network(0.020)
    async with running(stun_source(), context):
        await reach(1.0)
        count = len(context.published)
        stray = respond(bytes.fromhex("000100002112a442") + bytes(12), AddrPort("6.6.6.6", 6), strict=False)
        assert stray is not None
        for packet in (stray, b"", b"\x01\x01" + bytes(30)):
            context.arrive(packet, AddrPort("198.51.100.1", 1))
        assert len(context.published) == count


async def test_interfaces_are_published_with_the_ports_of_their_family() -> None:
    context = FakeContext()
    context.direct.ports = (1000, 2000)
    source = LocalInterfaces(lambda: [ip_address("10.0.0.5"), ip_address("2001:db8::5")])
    async with running(source, context):
        await reach(0.1)
        assert context.offered == [AddrPort("10.0.0.5", 1000), AddrPort("2001:db8::5", 2000)]
        context.direct.ports = (1000, None)
        context.refresh()
        await reach(0.2)
        assert context.offered == [AddrPort("10.0.0.5", 1000)]
    assert {candidate.kind for candidate in context.published[-1][1]} == {CandidateKind.LOCAL}


async def test_interfaces_are_read_again_every_half_minute_and_published_when_changed() -> None:
    addresses: list[Address] = [ip_address("10.0.0.5")]
    context = FakeContext()
    async with running(LocalInterfaces(lambda: addresses), context):
        await reach(100.0)
        count = len(context.published)
        addresses[0] = ip_address("10.0.0.6")
        await reach(131.0)
        assert len(context.published) == count + 1
        assert context.offered == [AddrPort("10.0.0.6", 41000)]
        context.refresh()  # asked: published even though nothing changed
        await reach(132.0)
        assert len(context.published) == count + 2


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["127.0.0.1", "::1", "10.0.0.5", "2001:db8::5"], ["10.0.0.5", "2001:db8::5"]),
        (["10.0.0.5", "fe80::1", "169.254.1.1", "0.0.0.0", "224.0.0.1"], ["10.0.0.5"]),
        (["169.254.1.1", "127.0.0.1", "fe80::1"], ["169.254.1.1"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (["10.0.0.5", "fd7a:115c:a1e0::1", "fd60:627a:a42b::1", "fd00::2"], ["10.0.0.5", "fd00::2"]),
        (["10.0.0.5", "10.0.0.5"], ["10.0.0.5"]),
        ([], []),
    ],
)
def test_which_addresses_are_worth_offering(present: list[str], chosen: list[str]) -> None:
    assert [str(address) for address in usable(map(ip_address, present))] == chosen


def test_families_of_a_host() -> None:
    assert families_of([ip_address("127.0.0.1")]) == frozenset()
    assert families_of([ip_address("10.0.0.5"), ip_address("fe80::1")]) == {"v4"}
    assert families_of([ip_address("2001:db8::1")]) == {"v6"}


def test_this_machine_has_readable_addresses() -> None:
    assert ip_address("127.0.0.1") in read_addresses()


async def test_configured_endpoints_are_published_as_they_are() -> None:
    context = FakeContext()
    async with running(StaticEndpoints([US]), context):
        await reach(0.1)
    assert context.published == [(0.0, [Candidate(US, CandidateKind.STATIC)])]


def test_settings_choose_the_sources() -> None:
    assert [source.name for source in build_sources(NatSettings())] == ["local", "stun", "portmap", "layers"]
    some = NatSettings(stun=False, local=False, port_mapping=False, endpoints=("203.0.113.7:1", "[2001:DB8::1]:2"))
    assert [source.name for source in build_sources(some)] == ["static"]
    assert some.endpoints == ("203.0.113.7:1", "[2001:db8::1]:2")
    with pytest.raises(ValidationError):
        NatSettings(endpoints=("name.example:1",))
    with pytest.raises(ValidationError, match="must be a list, as in"):
        NatSettings(endpoints="203.0.113.7:1")  # type: ignore[arg-type]
    assert [spec.plugin for spec in plugin.coder_settings()] == ["nat_traversal"]


@pytest.mark.parametrize(
    ("said", "port", "guessed"),
    [(None, 0, False), (None, 41641, True), (False, 41641, False), (True, 0, True)],
    ids=["nothing", "fixed port", "switched off", "switched on"],
)
def test_who_fixes_a_port_may_have_forwarded_it(said: bool | None, port: int, guessed: bool) -> None:
    (source,) = build_sources(NatSettings(local=False, port_mapping=False, stun_local_port=said), listen_port=port)
    assert isinstance(source, StunSource)
    assert source.guess_local_port is guessed

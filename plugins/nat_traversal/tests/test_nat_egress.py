"""What the egress policy forbids is neither looked up nor sent to by NAT traversal and netcheck."""

from __future__ import annotations

from ipaddress import ip_address
from typing import cast

import anyio
import pytest
from coder_agent_nat_traversal import gateway, layers
from coder_agent_nat_traversal.gateway import find_gateway
from coder_agent_nat_traversal.https import relay_options
from coder_agent_nat_traversal.interfaces import Family
from coder_agent_nat_traversal.netcheck import captive
from coder_agent_nat_traversal.netcheck.stun_probe import Sockets, StunProber
from coder_agent_nat_traversal.resolver import Resolver
from coder_agent_nat_traversal.settings import NatSettings
from coder_agent_nat_traversal.sources import build_sources
from coder_agent_nat_traversal.stun import StunSource

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import EgressRefused
from coder_agent.hooks import CandidateContext, DialOptions, Egress, Purpose, Verdict

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Listed:
    """Allows what it was given, be it a name, wherever that leads, or an address."""

    name = "listed"

    def __init__(self, *allowed: str) -> None:
        self.allowed = set(allowed)

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        return Verdict(host in self.allowed, "the list")

    def trust(self, host: str, reason: str) -> None:
        raise NotImplementedError


class Names:
    """A resolver that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, family: Family) -> str:
        self.asked.append(host)
        return "203.0.113.1"


async def test_names_that_are_not_allowed_are_not_looked_up() -> None:
    names = Names()
    egress = Egress(Listed("stun.in"))
    resolver = Resolver(names, egress)
    assert await resolver.resolve("stun.out", "v4", 3478) is None
    assert names.asked == []
    assert await resolver.resolve("stun.in", "v4", 3478) == "203.0.113.1"
    assert await resolver.resolve("stun.in", "v4", 3479) == "203.0.113.1"
    assert names.asked == ["stun.in"]
    assert egress.allows_address("203.0.113.1", 3479, Purpose.STUN)
    assert egress.refused == {"lookup": 1}


class Wire:
    """Sockets of IPv4 that remember where packets went; nobody answers."""

    families: frozenset[Family] = frozenset({"v4"})

    def __init__(self) -> None:
        self.sent: set[AddrPort] = set()

    def send(self, data: bytes, family: Family, destination: AddrPort) -> None:
        self.sent.add(destination)

    async def listen(self, family: Family, handler: object) -> None:
        await anyio.sleep_forever()


NODES = (
    DerpNode("1a", 1, "stun.in", stun_only=True),
    DerpNode("1b", 1, "stun.out", stun_only=True),
    DerpNode("1c", 1, "stun.in", ipv4="203.0.113.2", stun_only=True),  # the map lends a name to an address
    DerpNode("1d", 1, "number", ipv4="10.0.0.1", stun_only=True),
)
MAP = DerpMap({1: DerpRegion(1, nodes=NODES)})


async def test_netcheck_asks_only_what_is_inside() -> None:
    wire, names, egress = Wire(), Names(), Egress(Listed("stun.in", "10.0.0.1"))
    sockets: Sockets = wire
    prober = StunProber(MAP, sockets, [ip_address("10.0.0.9")], resolver=Resolver(names, egress), egress=egress)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prober.run)
        await anyio.wait_all_tasks_blocked()  # the first try at each is made at once
        tasks.cancel_scope.cancel()
    assert wire.sent == {AddrPort("203.0.113.1", 3478), AddrPort("10.0.0.1", 3478)}
    assert set(names.asked) == {"stun.in"}
    assert prober.found.errors["1c"] == "203.0.113.2:3478 may not be asked: the egress policy forbids it"


async def test_captive_portal_pages_outside_are_not_fetched() -> None:
    egress = Egress(Listed())
    with pytest.raises(EgressRefused):
        await captive.fetch("http://203.0.113.1/generate_204", {}, egress)
    assert egress.refused == {"connect": 1}


async def test_the_gateway_is_asked_only_if_it_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def route() -> str:
        return "192.168.1.1"

    monkeypatch.setattr(gateway, "_default_route", route)
    monkeypatch.setattr(gateway, "_own_address", lambda address: "192.168.1.2")
    assert await find_gateway(Egress(Listed("192.168.1.1"))) is not None
    refusing = Egress(Listed())
    assert await find_gateway(refusing) is None
    assert refusing.refused == {"port-mapping": 1}


def test_sources_get_the_policy_of_their_program() -> None:
    dial = DialOptions(egress=Egress(Listed()))
    (stun,) = [source for source in build_sources(NatSettings(), dial) if isinstance(source, StunSource)]
    assert stun.dial.egress is dial.egress
    assert stun.resolver._egress is dial.egress


def test_a_relay_that_cannot_be_verified_loses_headers_but_not_the_policy() -> None:
    options = DialOptions(headers={"X": "secret"}, egress=Egress(Listed()))
    bare = relay_options(DerpNode("1a", 1, "relay", insecure_for_tests=True), options)
    assert bare.headers == {}
    assert bare.egress is options.egress


class Situation:
    """As much of a candidate source's context as the hop counter sees."""

    def __init__(self, *nodes: DerpNode) -> None:
        self._nodes = nodes
        self.looks = 0

    @property
    def direct(self) -> Situation:
        return self

    def bound_ports(self) -> tuple[int, None]:
        return self.looks, None

    def derp_map(self) -> DerpMap:
        return DerpMap({1: DerpRegion(1, nodes=self._nodes)})

    async def wait_refresh(self) -> str:
        self.looks += 1
        if self.looks > 2:
            await anyio.sleep_forever()
        return "start"


@pytest.mark.parametrize(("inside", "expected"), [(True, 2), (False, 0)])
async def test_hops_are_counted_only_towards_the_inside(
    inside: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    async def hops(server: tuple[str, int]) -> list[str]:
        asked.append(server)
        return []

    monkeypatch.setattr(layers, "_hops", hops)
    counter = layers.NatLayers(Egress(Listed(*(["203.0.113.2"] if inside else []))), is_supported=True)
    situation = Situation(NODES[2])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(counter.run, cast(CandidateContext, situation))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert situation.looks == 3
    assert len(asked) == expected

"""Measures everything at once, each part within its time; nothing here fails because the network does."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import anyio

from coder_agent.base.derp_map import DerpMap, DerpNode
from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import DialOptions, Purpose
from coder_agent.http import HttpResponse

from ..gateway import find_gateway
from ..interfaces import Address, read_addresses
from ..plan import literal_address
from ..portmap_probe import ALL, probe_gateway
from ..resolver import Resolver
from . import captive, icmp, links, relay
from .interface import Interface
from .report import NetcheckReport, NodeReport, RelayCheck, preferred_region
from .stun_probe import Sockets, StunFindings, StunProber, open_sockets

TIMEOUT = 3.5
"""Seconds for the whole check. The parts have less; this is for what they do not see, a slow resolver say. With
start-up and the question for the relay map, the command stays under 5 s when everything is blocked."""
CAPTIVE_DELAY = 0.2
"""Seconds after which somebody is suspected in between, if no STUN server has answered by then. Source: netcheck.go."""
MAX_RELAYS = 64
"""Relay nodes that are asked; a map of more is no deployment's own, and each costs three connections."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for. `protocols` of port mapping that the gateway is asked for; `captive_urls`: pages that answer
    204, beside the relays' own; `effort` for each relay; `seconds` for everything. `all_relays`: not only the first
    MAX_RELAYS, but so many at a time."""

    dial: DialOptions = field(default_factory=DialOptions)
    effort: relay.Effort = field(default_factory=relay.Effort)
    seconds: float = TIMEOUT
    all_relays: bool = False
    protocols: frozenset[str] = ALL
    captive_urls: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Tools:
    """How the outside is touched: what tests replace."""

    addresses: Callable[[], list[Address]] = read_addresses
    interfaces: Callable[[], tuple[Interface, ...]] = links.read_interfaces
    gateway: Callable[[frozenset[str]], Awaitable[frozenset[str]]] | None = None
    ping: Callable[[str], Awaitable[float | None]] = icmp.ping
    relay: Callable[[DerpNode, DialOptions, relay.Effort], Awaitable[RelayCheck]] = relay.check_relay
    fetch: captive.Fetch | None = None
    resolver: Resolver | None = None
    sockets: Callable[[], AbstractContextManager[Sockets]] = open_sockets


async def run_netcheck(derp_map: DerpMap, wishes: Wishes | None = None, tools: Tools | None = None) -> NetcheckReport:
    """Check this network against `derp_map`. Bounded by `wishes.seconds`; never raises for what the network does."""
    check = _Check(derp_map, wishes or Wishes(), tools or Tools())
    with anyio.move_on_after(check.wishes.seconds):
        await check.run()
    return check.report()


class _Check:
    """One run."""

    def __init__(self, derp_map: DerpMap, wishes: Wishes, tools: Tools) -> None:
        self._map, self.wishes, self._tools = derp_map, wishes, tools
        self._turns = anyio.Semaphore(MAX_RELAYS)
        self._egress = self.wishes.dial.egress
        self._resolver = tools.resolver or Resolver(egress=self._egress)
        self._started = anyio.current_time()
        self._interfaces = tools.interfaces()
        self._stun: StunFindings | None = None
        self._relays: dict[str, RelayCheck] = {}
        self._icmp: dict[str, float] = {}
        self._gateway: frozenset[str] | None = None
        self._captive: bool | None = None
        self._nodes = [node for region in derp_map.regions.values() for node in region.nodes]

    async def run(self) -> None:
        """All parts at once."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask_stun)
            tasks.start_soon(self._look_for_portal)
            if self.wishes.protocols:
                tasks.start_soon(self._ask_gateway)
            relays = [node for node in self._nodes if not node.stun_only]
            for node in relays if self.wishes.all_relays else relays[:MAX_RELAYS]:
                tasks.start_soon(self._ask_relay, node)
            for node in pinged_nodes(self._map):
                tasks.start_soon(self._ping, node)

    async def _ask_stun(self) -> None:
        with self._tools.sockets() as sockets:
            prober = StunProber(
                self._map, sockets, self._tools.addresses(), resolver=self._resolver, egress=self._egress
            )
            self._stun = prober.found
            await prober.run()

    async def _ask_relay(self, node: DerpNode) -> None:
        seconds = self.wishes.seconds
        self._relays[node.name] = RelayCheck(error=f"{node.host_name} does not answer within {seconds:g} s")
        async with self._turns:
            self._relays[node.name] = await self._tools.relay(node, self.wishes.dial, self.wishes.effort)

    async def _ask_gateway(self) -> None:
        ask = self._tools.gateway or self._probe_gateway
        self._gateway = await ask(self.wishes.protocols)

    async def _look_for_portal(self) -> None:
        await anyio.sleep(CAPTIVE_DELAY)
        if self._stun is None or not self._stun.round.answered:
            asked = captive.pages(self._map, self.wishes.captive_urls)
            self._captive = await captive.detect(asked, self._tools.fetch or self._fetch)
        elif self._stun.round.answered:
            self._captive = False  # who lets UDP through does not stand in between

    async def _probe_gateway(self, protocols: frozenset[str]) -> frozenset[str]:
        gateway = await find_gateway(self._egress)
        return frozenset() if gateway is None else await probe_gateway(gateway, protocols=protocols)

    async def _fetch(self, url: str, headers: dict[str, str]) -> HttpResponse:
        return await captive.fetch(url, headers, self.wishes.dial.egress)

    async def _ping(self, node: DerpNode) -> None:
        address = literal_address(node, "v4")
        if address == "":
            address = await self._resolver.resolve(node.host_name, "v4")
        if address is None or not self._egress.allows_address(address, 0, Purpose.PING):
            return
        if not IPv4Address(address).is_loopback:
            latency = await self._tools.ping(address)
            if latency is not None:
                self._icmp[node.name] = latency

    # ------------------------------------------------------------ what came of it

    def report(self) -> NetcheckReport:
        """Whatever is known now."""
        nodes = tuple(self._of_node(node) for node in self._nodes)
        report = NetcheckReport(
            facts=self._facts(),
            os_has_ipv6=_os_has_ipv6(),
            icmp_v4=bool(self._icmp),
            nodes=nodes,
            interfaces=self._interfaces,
            derp_map=self._map,
            seconds=anyio.current_time() - self._started,
        )
        if self._stun is not None:
            report = replace(
                report,
                ipv4_can_send="v4" in self._stun.sent,
                ipv6_can_send="v6" in self._stun.sent,
                seen=self._stun.round.mappings.seen(),
                dropped=dict(self._stun.round.dropped),
            )
        return replace(report, home=preferred_region(self._map, report.latencies()))

    def _of_node(self, node: DerpNode) -> NodeReport:
        latency = self._stun.latency if self._stun is not None else {}
        errors = self._stun.errors if self._stun is not None else {}
        return NodeReport(
            node,
            latency.get((node.name, "v4")),
            latency.get((node.name, "v6")),
            self._icmp.get(node.name),
            errors.get(node.name, ""),
            self._relays.get(node.name),
        )

    def _facts(self) -> NatFacts:
        facts = NatFacts() if self._stun is None else self._stun.round.facts(over=True)
        by_https = {check.family for check in self._relays.values() if check.latency is not None}
        return replace(
            facts,
            ipv4=True if facts.ipv4 or "v4" in by_https or self._icmp else facts.ipv4,
            ipv6=True if facts.ipv6 or "v6" in by_https else facts.ipv6,
            port_mapping=self._gateway or frozenset(),
            gateway_asked=None if self._gateway is None else True,
            captive_portal=self._captive,
            mtu=links.smallest_mtu(self._interfaces),
        )


def pinged_nodes(derp_map: DerpMap) -> list[DerpNode]:
    """The first node of each region that answers STUN: whom to ping. Source: netcheck.go (measureICMPLatency)."""
    firsts = [region.nodes[0] for region in derp_map.regions.values() if region.nodes]
    return [node for node in firsts if node.stun_port >= 0]


def _os_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True

"""How a host of the laboratory finds its own endpoints: the work of candidate sources, without their tasks.

The interfaces are known at once, a port mapping after asking the gateway; then STUN through the data socket, with the
real codec and through the simulated network: to every server, three tries 100 ms apart, done when all have answered or
after a second. While somebody keeps asking, rounds repeat every 23 s.
Source: tailscale net/netcheck and wgengine/magicsock (determineEndpoints); the numbers are our own STUN source's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from ...base.addresses import AddrPort
from ...base.nat_facts import NatFacts
from ...protocols.effects import Dropped
from ...protocols.stun import encode_request, parse_response
from .network import Network
from .topology import Host

TRIES, TRY_INTERVAL, ROUND_TIMEOUT = 3, 0.100, 1.0
PERIOD, ACTIVE_FOR = 23.0, 45.0
TXID_SIZE = 12
MAX_STEP = 32
"""Consecutive mappings further apart than this follow no pattern that could be used."""


class Found(NamedTuple):
    """What a look yields: endpoints, the likeliest first, and what was learnt about the network."""

    endpoints: tuple[AddrPort, ...]
    facts: NatFacts


class Looker:
    """Looks around for one host. `publish` is called after every look, also if nothing changed."""

    def __init__(
        self, network: Network, name: str, rng: Callable[[int], bytes], publish: Callable[[Found], None]
    ) -> None:
        self._network = network
        self._name = name
        self._rng = rng
        self._publish = publish
        self._asked: dict[bytes, AddrPort] = {}
        self._answers: dict[AddrPort, AddrPort] = {}
        self.mapped: AddrPort | None = None
        """What the gateway opened for us."""
        self._round = 0
        self._is_looking = False
        self._has_finished = False
        self._wanted_at = float("-inf")
        self._last: Found | None = None

    @property
    def host(self) -> Host:
        """Ourselves, as the topology has us now."""
        return self._network.topology.host(self._name)

    @property
    def seen(self) -> tuple[AddrPort, ...]:
        """What the servers answered last."""
        return tuple(self._answers.values())

    def start(self) -> None:
        """Publish what is known without asking anybody, then look."""
        if self.host.allow_direct:
            self.mapped = self._network.ask_port(self._name, self.host.port)
        self._say()
        self.look()

    def look(self) -> None:
        """Begin a round of STUN, unless one is on; without servers, publish what there is."""
        self._wanted_at = self._network.clock.now
        if not self._is_looking:
            self._begin()

    def moved(self) -> None:
        """The network around us is another: nothing holds that was learnt."""
        self._answers.clear()
        self._has_finished = self._is_looking = False
        self.start()

    def receive(self, data: bytes) -> None:
        """A STUN packet came to the main socket."""
        answer = parse_response(data)
        server = None if isinstance(answer, Dropped) else self._asked.pop(answer.txid, None)
        if isinstance(answer, Dropped) or server is None:
            return
        self._answers[server] = answer.mapped
        if self._found() != self._last:
            self._say()
        if all(one in self._answers for one in self._servers()):
            self._finish(self._round)

    # ------------------------------------------------------------ rounds

    def _servers(self) -> list[AddrPort]:
        """Those that we can ask: of a family that we have."""
        host = self.host
        if not host.asks_stun:
            return []
        families = {":" in address for address in host.addresses}
        return [server for server in self._network.topology.stun if server.is_ipv6 in families]

    def _begin(self) -> None:
        self._round += 1
        this = self._round
        if not self._servers():
            self._say()
            return
        self._is_looking = True
        self._asked.clear()
        fresh: set[AddrPort] = set()
        self._ask(this, TRIES, fresh)
        self._network.clock.call_at(self._network.clock.now + ROUND_TIMEOUT, lambda: self._finish(this))

    def _ask(self, this: int, tries: int, asked: set[AddrPort]) -> None:
        if this != self._round or not self._is_looking or not tries:
            return
        for server in self._servers():
            if server in asked and server in self._answers:
                continue
            asked.add(server)
            txid = self._rng(TXID_SIZE)
            self._asked[txid] = server
            self._network.send(self._name, [encode_request(txid)], server, self.host.port)
        clock = self._network.clock
        clock.call_at(clock.now + TRY_INTERVAL, lambda: self._ask(this, tries - 1, asked))

    def _finish(self, this: int) -> None:
        if this != self._round or not self._is_looking:
            return
        self._is_looking = False
        self._has_finished = True
        self._say()
        clock = self._network.clock
        clock.call_at(clock.now + PERIOD, lambda: self._repeat(this))

    def _repeat(self, this: int) -> None:
        if this == self._round and self._network.clock.now - self._wanted_at <= ACTIVE_FOR:
            self._begin()

    # ------------------------------------------------------------ what it means

    def _say(self) -> None:
        self._last = self._found()
        self._publish(self._last)

    def _found(self) -> Found:
        host = self.host
        facts = self._facts()
        if not host.allow_direct:
            return Found((), facts)
        endpoints: list[AddrPort] = [self.mapped] if self.mapped else []
        endpoints += self._answers.values()
        if host.listen_port and facts.public_v4 is not None:
            endpoints.append(AddrPort(facts.public_v4.host, host.listen_port))
        endpoints += host.static
        endpoints += [AddrPort(address, host.port) for address in host.addresses]
        return Found(tuple(dict.fromkeys(endpoints)), facts)

    def _facts(self) -> NatFacts:
        host = self.host
        public = {family: self._public(family == "v6") for family in ("v4", "v6")}
        facts = NatFacts(
            public_v4=next(iter(public["v4"]), None),
            public_v6=next(iter(public["v6"]), None),
            mapping_varies=len(set(public["v4"])) > 1 if len(public["v4"]) > 1 else None,
            mtu=min(interface.link.mtu for interface in host.interfaces),
            direct_allowed=host.allow_direct,
            direct_rule=host.direct_rule,
            listen_port=host.listen_port,
        )
        if facts.mapping_varies:
            facts = replace(facts, port_step=_step(public["v4"]))
        if self._has_finished or self._answers:
            facts = replace(facts, udp=bool(self._answers), ipv4=bool(public["v4"]), ipv6=bool(public["v6"]))
        return replace(facts, **self._gateway_facts(facts.public_v4))  # type: ignore[arg-type]

    def _public(self, is_ipv6: bool) -> list[AddrPort]:
        """How the servers of a family saw us, in the order in which they were asked."""
        stun = self._network.topology.stun
        return [self._answers[one] for one in stun if one.is_ipv6 == is_ipv6 and one in self._answers]

    def _gateway_facts(self, public: AddrPort | None) -> dict[str, object]:
        router = next(iter(self._network.topology.chain(self._name)), None)
        if router is None or router.nat is None:
            return {"gateway_asked": True}
        known: dict[str, object] = {"gateway_asked": True, "port_mapping": frozenset(router.port_mapping)}
        if router.port_mapping:
            known["port_mapped"] = self.mapped is not None
        if public is not None:  # where UDP passes, hops can be counted
            chain = self._network.topology.chain(self._name)
            known["nat_layers"] = sum(one.nat is not None for one in chain)
        return known


def _step(seen: list[AddrPort]) -> int:
    """How far consecutive mappings are apart; 0 = no pattern."""
    steps = {later.port - earlier.port for earlier, later in pairwise(seen)}
    step = steps.pop() if len(steps) == 1 else 0
    return step if 0 < abs(step) <= MAX_STEP else 0

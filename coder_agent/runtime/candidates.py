"""Runs candidate sources (NAT traversal plugins) and merges what they say into our list of endpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import anyio

from ..base.addresses import AddrPort
from ..base.burst import Burst
from ..base.derp_map import DerpMap
from ..base.egress import Purpose
from ..base.keys import NodePublic
from ..base.nat_facts import NatFacts
from ..base.node import Node
from ..base.path_rules import NO_RULES, DirectRule, PathRules
from ..base.paths import Path, UdpPath
from ..hooks.egress import OPEN, Egress
from ..hooks.interfaces import Candidate, CandidateKind, CandidateSource, DirectTransport

log = logging.getLogger(__name__)

_ORDER = {kind: index for index, kind in enumerate(CandidateKind)}
RESTART_DELAY = 5.0
"""Seconds before a source that raised is started again."""


class CandidateHub:
    """What all candidate sources of one node said, as one ordered list without duplicates.

    `changed` is called after every publication, also an unchanged one: fresh endpoints are what a call-me-maybe waits
    for. `measured` is called when a latency or the kind of our NAT became known, `moved` when a
    source asked for a rebind (that our addresses changed the node notices itself: link_watch.py). `peers` says whom
    the node, whose key is `key`, knows; `suggested` takes all addresses at which sources saw a peer. `rules` may
    silence all sources, or all IPv6, until `set_rules` says otherwise; nothing is sent to what `egress` forbids.
    """

    def __init__(
        self,
        direct: DirectTransport,
        *,
        changed: Callable[[], None],
        measured: Callable[[], None],
        moved: Callable[[], None],
        key: NodePublic | None = None,
        peers: Callable[[], Sequence[Node]] = tuple,
        suggested: Callable[[NodePublic, Sequence[AddrPort]], None] = lambda peer, endpoints: None,
        rules: PathRules = NO_RULES,
        egress: Egress = OPEN,
    ) -> None:
        self.direct = direct
        self.key = key or NodePublic(bytes(32))
        self.map = DerpMap()
        self.nat = NatFacts()
        self.peers = peers
        self._suggested = suggested
        self._changed = changed
        self._measured = measured
        self._moved = moved
        self._published: dict[str, tuple[Candidate, ...]] = {}
        self._latency: dict[tuple[int, str], float] = {}
        self._stun_handlers: list[Callable[[bytes, AddrPort, float], None]] = []
        self._peer_handlers: list[Callable[[], None]] = []
        self._seen: dict[NodePublic, dict[str, tuple[AddrPort, ...]]] = {}
        self._refresh: dict[str, tuple[anyio.Event, list[str]]] = {}
        self._rules = rules
        self._egress = egress
        self._rules_changed = anyio.Event()
        self._running: anyio.CancelScope | None = None

    @property
    def mapping_varies(self) -> bool | None:
        """Does our NAT give each destination another port? None: not known."""
        return self.nat.mapping_varies

    def endpoints(self) -> tuple[AddrPort, ...]:
        """Our endpoints, the likeliest first."""
        return tuple(dict.fromkeys(candidate.addr for candidate in self.candidates()))

    def candidates(self) -> list[Candidate]:
        """All candidates with their kinds, in order of publication."""
        permits = self._rules.permits
        found = [candidate for said in self._published.values() for candidate in said if permits(candidate.addr)]
        return sorted(found, key=lambda candidate: _ORDER[candidate.kind])

    def latency(self) -> Mapping[int, float]:
        """Seconds per relay region, the better of both families."""
        best: dict[int, float] = {}
        for (region, _), seconds in self._latency.items():
            best[region] = min(seconds, best.get(region, seconds))
        return best

    def derp_latency(self) -> Mapping[str, float]:
        """The same as Node.derp_latency has it: ``<region>-v4`` → seconds."""
        return {f"{region}-{family}": seconds for (region, family), seconds in self._latency.items()}

    def refresh(self, reason: str) -> None:
        """Ask every source to look again."""
        for event, reasons in self._refresh.values():
            reasons.append(reason)
            event.set()

    def set_map(self, derp_map: DerpMap) -> None:
        """A new relay map: latencies of regions that went are forgotten, everything is measured again."""
        self.map = derp_map
        self._latency = {key: value for key, value in self._latency.items() if key[0] in derp_map.regions}
        self.refresh("derp-map")

    def stun_received(self, data: bytes, source: AddrPort, now: float) -> None:
        """A STUN packet arrived on the data socket."""
        for handler in list(self._stun_handlers):
            handler(data, source, now)

    def peers_changed(self) -> None:
        """A peer came, changed or went."""
        if self._seen:
            for gone in self._seen.keys() - {peer.key for peer in self.peers()}:
                del self._seen[gone]
        for handler in list(self._peer_handlers):
            handler()

    def set_rules(self, rules: PathRules) -> None:
        """Rules for all paths. Where direct ones are forbidden no source runs: no STUN, no port mapping, no multicast.
        Without IPv6 none of it is offered, and sources do not get to use it."""
        before, self._rules = self._rules, rules
        silence, ipv6 = rules.direct is DirectRule.NEVER, rules.ipv6
        if silence != (before.direct is DirectRule.NEVER):
            if silence:
                self._published.clear()
                self._changed()
                if self._running is not None:
                    self._running.cancel()
            self._rules_changed.set()
        elif ipv6 != before.ipv6:
            self._changed()
            self.refresh("rules")

    async def run(self, sources: Sequence[CandidateSource]) -> None:
        """Run all sources until cancelled; one that fails is started again and never stops the others."""
        while True:
            self._rules_changed = anyio.Event()
            if self._rules.direct is not DirectRule.NEVER:
                async with anyio.create_task_group() as tasks:
                    self._running = tasks.cancel_scope
                    for source in sources:
                        tasks.start_soon(self._run_source, source)
                self._running = None
                if not self._rules_changed.is_set():
                    return
                self._refresh.clear()
            else:
                await self._rules_changed.wait()

    def _publish(self, source: str, candidates: tuple[Candidate, ...]) -> None:
        self._published[source] = candidates
        self._changed()

    def _suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        if all(known.key != peer for known in self.peers()):
            return
        by_source = self._seen.setdefault(peer, {})
        if by_source.get(source, ()) == tuple(endpoints):
            return
        by_source[source] = tuple(endpoints)
        self._suggested(peer, tuple(dict.fromkeys(addr for said in by_source.values() for addr in said)))

    async def _run_source(self, source: CandidateSource) -> None:
        while True:
            try:
                await source.run(_SourceContext(self, source.name))
            except Exception:  # a plugin's bug must not cost the others their endpoints
                log.exception("candidate source %s failed; trying again in %g s", source.name, RESTART_DELAY)
            else:
                return
            await anyio.sleep(RESTART_DELAY)


class _SourceContext:
    """One source's view of the hub (hooks.interfaces.CandidateContext)."""

    def __init__(self, hub: CandidateHub, name: str) -> None:
        self._hub = hub
        self._name = name
        self._first = True

    @property
    def key(self) -> NodePublic:
        return self._hub.key

    @property
    def direct(self) -> DirectTransport:
        return self._hub.direct if self._hub._rules.ipv6 else _WithoutIpv6(self._hub.direct)

    def derp_map(self) -> DerpMap:
        return self._hub.map

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        self._hub._publish(source, tuple(candidates))

    def send(self, data: bytes, addr: AddrPort) -> None:
        hub = self._hub
        if hub._rules.permits(addr) and hub._egress.allows_address(addr.host, addr.port, Purpose.STUN, who=self._name):
            hub.direct.send(Burst.of(data), UdpPath(addr))

    def on_stun(self, handler: Callable[[bytes, AddrPort, float], None]) -> Callable[[], None]:
        self._hub._stun_handlers.append(handler)
        return lambda: self._hub._stun_handlers.remove(handler)

    def report_latency(self, region: int, family: Literal["v4", "v6"], seconds: float) -> None:
        self._hub._latency[region, family] = seconds
        self._hub._measured()

    def report_mapping_varies(self, varies: bool | None) -> None:
        self._hub.nat = replace(self._hub.nat, mapping_varies=varies)
        self._hub._measured()

    def report_nat(self, facts: NatFacts) -> None:
        before = self._hub.nat
        self._hub.nat = before.updated(facts)
        if self._hub.nat != before:
            self._hub._measured()

    def request_rebind(self, reason: str) -> None:
        log.debug("%s asks for fresh sockets: %s", self._name, reason)
        self._hub._moved()

    def peers(self) -> Sequence[Node]:
        return self._hub.peers()

    def on_peers(self, handler: Callable[[], None]) -> Callable[[], None]:
        self._hub._peer_handlers.append(handler)
        return lambda: self._hub._peer_handlers.remove(handler)

    def suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        self._hub._suggest(source, peer, endpoints)

    async def wait_refresh(self) -> str:
        if self._first:
            self._first = False
            self._hub._refresh[self._name] = (anyio.Event(), [])
            return "start"
        event, reasons = self._hub._refresh[self._name]
        await event.wait()
        self._hub._refresh[self._name] = (anyio.Event(), [])
        return reasons[-1]


class _WithoutIpv6:
    """A direct transport as sources see it where IPv6 is switched off."""

    def __init__(self, direct: DirectTransport) -> None:
        self._direct = direct
        self.name, self.headroom = direct.name, direct.headroom

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self._direct.bound_ports()[0], None

    def send(self, burst: Burst, path: Path) -> bool:
        if isinstance(path, UdpPath) and path.addr.is_ipv6:
            return True  # lost, like any datagram
        return self._direct.send(burst, path)

    def stats(self) -> Mapping[str, int]:
        return self._direct.stats()

    def rebind(self) -> None:
        self._direct.rebind()

    def open_extra(self, count: int) -> Sequence[int]:
        return self._direct.open_extra(count)

    def close_extra(self, names: Sequence[int]) -> None:
        self._direct.close_extra(names)

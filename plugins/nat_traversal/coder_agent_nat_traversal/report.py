"""One round of asking STUN servers: requests in flight, what the answers say, when it is over. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coder_agent.base.addresses import AddrPort
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response

from .interfaces import Family
from .plan import LastRound, Probe, ProbeSet

ROUND_TIMEOUT = 3.0
"""Seconds after which a round ends whatever is missing. Source: tailscale net/netcheck/netcheck.go."""
ENOUGH_REGIONS = 3
"""With answers from that many regions, the rest gets only as long again as the slowest needed. Same source."""
MIN_LATENCY = 1e-6
"""A measured latency is never 0, which elsewhere could read as "none": clocks of event loops may have 1 ms steps."""

_TXID_SIZE = 12


@dataclass(slots=True)
class _Set:
    """A set's tries that are still to be made, and whether it was answered."""

    waiting: list[Probe]
    answered: bool = False


@dataclass(frozen=True, slots=True)
class _InFlight:
    probe: Probe
    destination: AddrPort
    sent: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A server told us `mapped`; `latency` in seconds."""

    region: int
    family: Family
    mapped: AddrPort
    latency: float


@dataclass(slots=True)
class StunRound:
    """Ask `due` probes with `request`, feed answers to `receive`, stop when `finished`."""

    sets: Sequence[ProbeSet]
    rng: Callable[[int], bytes]
    started: float
    full: bool = True
    latency: dict[tuple[int, Family], float] = field(default_factory=dict)
    mapping_varies: bool | None = None
    """Another port or address per destination? Known once two different IPv4 servers answered."""
    dropped: Counter[str] = field(default_factory=Counter)
    _sets: dict[tuple[int, Family], _Set] = field(default_factory=dict)
    _in_flight: dict[bytes, _InFlight] = field(default_factory=dict)
    _seen: Counter[AddrPort] = field(default_factory=Counter)
    _by_destination: dict[AddrPort, AddrPort] = field(default_factory=dict)
    _enough_at: float | None = None

    def __post_init__(self) -> None:
        for probes in self.sets:
            self._sets[probes[0].region, probes[0].family] = _Set(list(probes))

    @property
    def answered(self) -> bool:
        """True once anybody answered."""
        return bool(self.latency)

    def deadline(self) -> float:
        """When to look again without an answer: the next try, or the end."""
        tries = [self.started + s.waiting[0].delay for s in self._sets.values() if s.waiting and not s.answered]
        return min([*tries, self._end()])

    def finished(self, now: float) -> bool:
        """True when nothing more is to be expected."""
        return now >= self._end() or all(s.answered for s in self._sets.values())

    def due(self, now: float) -> list[Probe]:
        """Tries whose time has come and that may still teach us something; each is handed out once."""
        probes: list[Probe] = []
        for pending in self._sets.values():
            while pending.waiting and self.started + pending.waiting[0].delay <= now:
                probe = pending.waiting.pop(0)
                if not pending.answered and self._would_help(probe):
                    probes.append(probe)
                else:
                    pending.waiting.clear()
        return probes

    def request(self, probe: Probe, destination: AddrPort, now: float) -> bytes:
        """The datagram to send to `destination` now."""
        txid = self.rng(_TXID_SIZE)
        self._in_flight[txid] = _InFlight(probe, destination, now)
        return encode_request(txid)

    def receive(self, packet: bytes, now: float) -> Answer | None:
        """A STUN packet came in; None (and counted) when it answers nothing that we asked.

        Where it came from proves nothing and is not looked at: the transaction id does.
        """
        response = parse_response(packet)
        if isinstance(response, Dropped):
            self.dropped[response.reason] += 1
            return None
        asked = self._in_flight.pop(response.txid, None)
        if asked is None:
            self.dropped["stun-unknown-txid"] += 1
            return None
        return self._accept(asked, response, now)

    def endpoints(self) -> list[AddrPort]:
        """What to offer peers: per family the first one seen, then those seen more than once.

        The others are the one-off ports of a hard NAT. Source: tailscale wgengine/magicsock/magicsock.go
        (determineEndpoints).
        """
        offered: list[AddrPort] = []
        for is_ipv6 in (False, True):
            seen = [addr for addr in self._seen if addr.is_ipv6 == is_ipv6]
            offered += seen[:1] + [addr for addr in seen[1:] if self._seen[addr] > 1]
        return offered

    def result(self) -> LastRound:
        """What the next round's plan needs."""
        return LastRound(dict(self.latency))

    def _accept(self, asked: _InFlight, response: BindingResponse, now: float) -> Answer:
        key = (asked.probe.region, asked.probe.family)
        latency = max(now - asked.sent, MIN_LATENCY)
        self.latency[key] = min(latency, self.latency.get(key, latency))
        self._sets[key].answered = True
        mapped = response.mapped
        self._seen[mapped] += 1
        if not mapped.is_ipv6:
            self._compare(asked.destination, mapped)
        regions = {region for region, _ in self.latency}
        if self._enough_at is None and len(regions) >= ENOUGH_REGIONS:
            self._enough_at = now + max(self.latency.values()) * (2 if self.full else 1)
        return Answer(*key, mapped, self.latency[key])

    def _compare(self, destination: AddrPort, mapped: AddrPort) -> None:
        others = [seen for server, seen in self._by_destination.items() if server != destination]
        self._by_destination[destination] = mapped
        if any(seen != mapped for seen in others):
            self.mapping_varies = True
        elif others and self.mapping_varies is None:
            self.mapping_varies = False

    def _would_help(self, probe: Probe) -> bool:
        known_regions = {region for region, _ in self.latency}
        if probe.region not in known_regions:
            return True
        if probe.family == "v6":
            return not any(family == "v6" for _, family in self.latency)
        return self.mapping_varies is None

    def _end(self) -> float:
        end = self.started + ROUND_TIMEOUT
        return end if self._enough_at is None else min(end, self._enough_at)

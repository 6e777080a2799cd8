"""One round of asking STUN servers: requests in flight, what the answers say, when it is over. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response

from .interfaces import Address, Family
from .mapping import Mappings, impossible
from .plan import INITIAL_INTERVAL, INITIAL_TRIES, LastRound, Probe, ProbeSet

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
    order: int


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
    own: Collection[Address] = ()
    """Addresses of our interfaces."""
    enough: int = ENOUGH_REGIONS
    patience: float = ROUND_TIMEOUT
    """Seconds after which a round ends in which somebody has answered (later if answers take long)."""
    latency: dict[tuple[int, Family], float] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    _sets: dict[tuple[int, Family], _Set] = field(default_factory=dict)
    _in_flight: dict[bytes, _InFlight] = field(default_factory=dict)
    mappings: Mappings = field(default_factory=Mappings)
    _order: dict[AddrPort, int] = field(default_factory=dict)
    _enough_at: float | None = None

    def __post_init__(self) -> None:
        for probes in self.sets:
            self._sets[probes[0].region, probes[0].family] = _Set(list(probes))

    @property
    def mapping_varies(self) -> bool | None:
        """Another port or address per destination? Known once two different IPv4 servers answered."""
        return self.mappings.varies()

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
        order = self._order.setdefault(destination, len(self._order))
        self._in_flight[txid] = _InFlight(probe, destination, now, order)
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
        reason = impossible(response.mapped, asked.destination, self.own)
        if reason is None and not 0 <= now - asked.sent <= ROUND_TIMEOUT:
            reason = "stun-clock-jumped"  # the machine slept, say: this would be no latency
        if reason is not None:
            self.dropped[reason] += 1
            return None
        return self._accept(asked, response, now)

    def endpoints(self) -> list[AddrPort]:
        """What to offer peers (`Mappings.endpoints`)."""
        return self.mappings.endpoints()

    def facts(self, *, over: bool) -> NatFacts:
        """What this round says of our network. What did not work is only said when the round is `over`."""
        works = {family: any(key[1] == family for key in self.latency) for family in ("v4", "v6")}
        asked = {family for _, family in self._sets}
        v4, v6 = (works[f] or (False if over and f in asked else None) for f in ("v4", "v6"))
        return NatFacts(
            udp=self.answered or (False if over and asked else None),
            ipv4=v4,
            ipv6=v6,
            mapping_varies=self.mapping_varies,
            port_step=self.mappings.port_step(),
            public_v4=self.mappings.public(is_ipv6=False),
            public_v6=self.mappings.public(is_ipv6=True),
        )

    def families_of(self, region: int) -> list[Family]:
        """The families in which `region` was to be asked."""
        return [family for number, family in self._sets if number == region]

    def result(self) -> LastRound:
        """What the next round's plan needs."""
        return LastRound(dict(self.latency))

    def _accept(self, asked: _InFlight, response: BindingResponse, now: float) -> Answer:
        key = (asked.probe.region, asked.probe.family)
        latency = max(now - asked.sent, MIN_LATENCY)
        self.latency[key] = min(latency, self.latency.get(key, latency))
        self._sets[key].answered = True
        self.mappings.add(asked.destination, response.mapped, asked.order)
        regions = {region for region, _ in self.latency}
        if self._enough_at is None and len(regions) >= self.enough:
            self._enough_at = now + max(self.latency.values()) * (2 if self.full else 1)
        return Answer(*key, response.mapped, self.latency[key])

    def _would_help(self, probe: Probe) -> bool:
        known_regions = {region for region, _ in self.latency}
        if probe.region not in known_regions:
            return True
        if probe.family == "v6":
            return not any(family == "v6" for _, family in self.latency)
        return self.mapping_varies is None

    def _end(self) -> float:
        wait = ROUND_TIMEOUT
        if self.latency:
            wait = min(wait, max(self.patience, INITIAL_INTERVAL * INITIAL_TRIES + 2 * max(self.latency.values())))
        end = self.started + wait
        return end if self._enough_at is None else min(end, self._enough_at)

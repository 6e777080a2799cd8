"""One peer: its relay, its candidates, the pings on their way, the best path and how far it is trusted.

Decides, but neither seals nor sends: `prober.py` and `receiver.py` do that with what they find here.
Source: tailscale wgengine/magicsock/endpoint.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..base.addresses import AddrPort
from ..base.keys import NodePublic
from ..base.path_rules import DirectRule, PathRules
from ..base.paths import DerpPath, Path, PathKind, PathPolicy, PathQuality, UdpPath
from . import constants as c
from .candidates import NEVER, Candidate, CandidateTable
from .doubt import Doubt
from .effects import Effect, PathUpdate, Route
from .quality import Quality
from .search_state import Account, Allowance, Hunt, MtuState
from .status import PathStatus
from .vitals import Vitals

NOTHING: list[Effect] = []
"""The shared answer "do nothing". Never add to it."""
FOREVER = float("inf")


class Purpose(Enum):
    """Why a ping was sent."""

    DISCOVERY = "discovery"
    HEARTBEAT = "heartbeat"
    USER = "user"
    GUESS = "guess"
    MTU = "mtu"


@dataclass(slots=True)
class SentPing:
    """A ping that waits for its pong. `size` is its UDP payload in bytes."""

    path: Path
    at: float
    purpose: Purpose
    size: int


def wire_mtu_of(addr: AddrPort, payload_size: int) -> int:
    """The size on the wire of a UDP datagram with `payload_size` bytes."""
    return payload_size + (c.UDP_OVERHEAD_V6 if addr.is_ipv6 else c.UDP_OVERHEAD_V4)


class Peer:
    """State of one peer. The core's modules read and write the attributes; nobody else sees them."""

    __slots__ = (
        "key", "disco_control", "disco_advertised", "disco",  # keys: from the coordinator, in-band, in use
        "home", "seen_region", "gone_region", "derp_latency",  # relays
        "candidates", "sent", "calls", "ping_backs", "sources",
        "best", "best_at", "trusted_until",
        "doubt", "quality", "relay_pinged_at", "relay_ping_at", "direct_vitals", "relay_vitals",
        "mtu", "account", "hunt", "probes", "search_at", "repeat_at", "repeats", "searching_since", "mtu_probed_at",
        "last_send", "last_received", "last_full_ping", "heartbeat_at",
        "called_at", "call_due",  # our call-me-maybes: last sent; waiting until
        "rules", "own_rules", "announced", "announced_path",
        "fast_until", "fast_answer",  # route() answers with this, without thinking, before that time
        "scheduled_at", "removed",
    )  # fmt: skip

    def __init__(self, key: NodePublic, rules: PathRules) -> None:
        self.key = key
        self.disco_control: bytes | None = None
        self.disco_advertised: bytes | None = None
        self.disco: bytes = b""
        self.home = self.seen_region = self.gone_region = 0
        self.derp_latency: float | None = None
        self.candidates = CandidateTable()
        self.sent: dict[bytes, SentPing] = {}  # in order of time
        self.calls = Allowance()
        self.ping_backs = Allowance()
        self.sources: dict[AddrPort, None] = {}  # in order of learning
        self.best: PathQuality | None = None
        self.best_at = self.trusted_until = self.relay_pinged_at = NEVER
        self.relay_ping_at = FOREVER  # while the relay carries, it is measured then
        self.direct_vitals, self.relay_vitals = Vitals(), Vitals()
        self.doubt = Doubt()
        self.quality = Quality()
        self.mtu = MtuState()
        self.account = Account()
        self.hunt = Hunt()
        self.probes = Allowance(c.PROBE_BURST, c.PROBES_PER_SECOND)
        self.search_at = FOREVER  # the rest of a search that went over the budget
        self.repeat_at = FOREVER  # pings are repeated after a call; of CALL_REPEATS, that one
        self.repeats = 0
        self.searching_since = self.mtu_probed_at = NEVER
        self.last_send = self.last_received = self.last_full_ping = self.called_at = NEVER
        self.heartbeat_at: float | None = None
        self.call_due: float | None = None
        self.rules = rules
        self.own_rules = False  # or those for all peers
        self.announced = PathKind.NONE
        self.announced_path = ""
        self.fast_until = NEVER
        self.fast_answer: tuple[Route | None, list[Effect]] = (None, NOTHING)
        self.scheduled_at = FOREVER
        self.removed = False

    # ------------------------------------------------------------ what holds

    @property
    def derp_region(self) -> int:
        """The relay region to send to; 0 = none. Home, unless its relay said "not here" and another saw the peer;
        or the preferred one while the peer is connected there."""
        preferred = self.rules.prefer_region
        if preferred and preferred != self.gone_region and preferred in (self.home, self.seen_region):
            return preferred
        if self.home and (self.home != self.gone_region or not self.seen_region):
            return self.home
        return self.seen_region

    @property
    def data_region(self) -> int:
        """The relay region that may carry data; 0 = none. Signalling may use `derp_region` nevertheless."""
        return 0 if self.rules.direct is DirectRule.ONLY else self.derp_region

    @property
    def allow_direct(self) -> bool:
        """False: nothing is tried, answered or sent over UDP."""
        return self.rules.direct is not DirectRule.NEVER

    def relay_path(self) -> DerpPath | None:
        """The path through the peer's relay."""
        region = self.derp_region
        return DerpPath(region, self.key) if region else None

    @property
    def can_probe(self) -> bool:
        """True if direct paths are allowed and there is a key to look for them with."""
        return self.allow_direct and bool(self.disco)

    def called(self, now: float) -> None:
        """A call-me-maybe was sent or obeyed: one search is not all."""
        self.repeats, self.repeat_at = 0, now + c.CALL_REPEATS[0]

    def is_trusted(self, now: float) -> bool:
        """True if the best direct path may be used alone."""
        return self.best is not None and now <= self.trusted_until

    def wants_relay(self, now: float) -> bool:
        """True if the relay carries, and there is a key to measure it with."""
        return bool(self.data_region and self.disco) and (self.quality.relayed or not self.is_trusted(now))

    def note_ping(self, ping: SentPing, *, answered: bool) -> None:
        """A ping came back, or did not in time."""
        if ping.purpose is Purpose.HEARTBEAT:
            vitals = self.direct_vitals if isinstance(ping.path, UdpPath) else self.relay_vitals
            vitals.note(ping.path, answered=answered)

    def is_active(self, now: float) -> bool:
        """True if something was sent in the last 45 s."""
        return now - self.last_send <= c.SESSION_ACTIVE_TIMEOUT

    def wants_full_ping(self, now: float) -> bool:
        """Is it time to look for a (better) direct path?"""
        if self.best is None or self.last_full_ping == NEVER or now > self.trusted_until:
            return True
        return self.best.latency > c.GOOD_ENOUGH_LATENCY and now - self.last_full_ping >= c.UPGRADE_INTERVAL

    def next_search_at(self) -> float:
        """When a search for a direct path can do anything again: a candidate may be pinged, or peers be called."""
        if not self.can_probe:
            return FOREVER
        if not len(self.candidates):
            return self.called_at + c.MIN_PING_INTERVAL if self.derp_region else FOREVER
        pings = (one.ping_at for one in self.candidates if self.rules.permits(one.addr))
        return max(
            min(pings, default=FOREVER) + c.MIN_PING_INTERVAL, self.search_at if self.search_at != FOREVER else NEVER
        )

    def next_deadline(self) -> float:
        """When `on_timer` has something to do for this peer."""
        when = FOREVER if self.heartbeat_at is None else self.heartbeat_at
        if self.call_due is not None:
            when = min(when, self.call_due)
        if self.heartbeat_at is not None and self.announced is PathKind.DIRECT:
            when = min(when, self.trusted_until + c.TIMER_SLACK)
        when = min(
            when,
            self.doubt.deadline(),
            self.search_at,
            self.repeat_at,
            self.account.tell_at,
            self.relay_ping_at,
            self.hunt.due,
            self.hunt.ends_at,
        )
        for ping in self.sent.values():  # the first is the oldest
            return min(when, ping.at + c.PING_TIMEOUT)
        return when

    # ------------------------------------------------------------ the send decision

    def route(self, now: float) -> Route | None:
        """Decide where to send, and remember the answer for as long as it surely holds."""
        best = self.best
        if best is not None and now <= self.trusted_until:
            route: Route | None = self._trusted_route(best.path)
            until = self.trusted_until
            if self.heartbeat_at is not None:
                self.doubt.arm(now)
        else:
            path, region = best.path if best else None, self.data_region or None
            route = self._reuse(path, region) if path or region else None
            until = self.next_search_at()
        self.fast_answer = (route, NOTHING)
        # Without an armed heartbeat the next send must come through here again, to arm it.
        # So must one that arms the relay's measurement.
        is_armed = self.heartbeat_at is not None or not self.can_probe
        self.fast_until = until if is_armed and (self.relay_ping_at != FOREVER or not self.wants_relay(now)) else NEVER
        return route

    def _trusted_route(self, direct: UdpPath) -> Route:
        if self.doubt.since is not None:
            return self._reuse(direct, self.data_region or None)
        if self.quality.relayed and self.data_region:
            return self._reuse(None, self.data_region)
        return self._reuse(direct, None)

    def _reuse(self, udp: UdpPath | None, derp: int | None) -> Route:
        old = self.fast_answer[0]
        return old if old is not None and old.udp == udp and old.derp == derp else Route(udp, derp)

    # ------------------------------------------------------------ what happens to it

    def accept_pong(self, candidate: Candidate, ping: SentPing, now: float, policy: PathPolicy) -> None:
        """A candidate answered: note how well, and use it if it beats what we have.

        A pong to a ping smaller than a full-size packet (a user's choice) proves nothing about carrying data.
        """
        latency = max(now - ping.at, 0.0)
        candidate.pongs.append(latency)
        candidate.answered += 1
        candidate.trouble = ""
        candidate.wire_mtu = max(candidate.wire_mtu, wire_mtu_of(candidate.addr, ping.size))
        if ping.size < c.PADDED_PING_SIZE:
            candidate.small_at = now
            return
        candidate.full_at, candidate.full_lost = now, 0
        quality = PathQuality(candidate.addr, latency, candidate.wire_mtu, candidate.path.local)
        if self.best is None or now > self.trusted_until or policy.better(quality, self.best):
            self.best = quality
        if self.best.path == candidate.path:
            # The address is what was pinged; a pong may come from anywhere.
            self.best = quality
            trust = c.RESTING_TRUST if self.doubt.is_resting(now) else c.TRUST_DURATION
            self.best_at, self.trusted_until = now, now + trust
            self.doubt.answered(ping.at, now)
        self.fast_until = NEVER

    def clear_best(self) -> None:
        """The direct path is no more: relay until a pong comes."""
        self.best = None
        self.best_at = NEVER
        self.end_trust()

    def end_trust(self) -> None:
        """Doubt the direct path: send both ways until a pong comes."""
        self.trusted_until = NEVER
        self.fast_until = NEVER
        self.quality.forget()

    def drop_lost_best(self) -> bool:
        """After candidates went: if the best path was among them, clear it. True if it was."""
        self.fast_until = NEVER
        if self.best is None or self.candidates.get(self.best.path) is not None:
            return False
        self.clear_best()
        return True

    def lost_trust(self, now: float) -> bool:
        """The path in use is not answering: whoever waits for an acknowledgement on it waits in vain."""
        return self.heartbeat_at is not None and self.announced is PathKind.DIRECT and not self.is_trusted(now)

    def announce(self, now: float, reason: str) -> list[Effect]:
        """Compare what carries packets now with what was last announced; say so if it differs."""
        latency: float | None
        relayed = self.quality.relayed and self.data_region
        if self.is_trusted(now) and self.best is not None and not relayed:
            kind, path, latency = PathKind.DIRECT, str(self.best.addr), self.best.latency
        elif self.data_region:
            kind, path, latency = PathKind.RELAYED, f"derp:{self.derp_region}", self.derp_latency
        else:
            kind, path, latency = PathKind.NONE, "", None
        if path == self.announced_path:
            return []
        if self.announced is PathKind.DIRECT:
            self.searching_since = now
        previous, self.announced, self.announced_path = self.announced_path, kind, path
        return [PathUpdate(self.key, kind, path, previous, reason, latency)]

    # ------------------------------------------------------------ for people

    def status(self) -> PathStatus:
        """The way to this peer, with the evidence."""
        best = self.best
        kind = self.announced
        if kind is PathKind.NONE or best is None:
            kind = PathKind.RELAYED if self.data_region else PathKind.NONE
        return PathStatus(
            kind=kind,
            addr=best.addr if best else None,
            socket=best.local if best else 0,
            remote=self.account.remote,
            too_small=kind is not PathKind.DIRECT and any(one.too_small for one in self.candidates),
            searching_since=self.searching_since if kind is not PathKind.DIRECT and self.heartbeat_at else None,
            birthday=self.hunt.is_on,
            region=self.derp_region,
            latency=best.latency if best and kind is PathKind.DIRECT else self.derp_latency,
            wire_mtu=best.wire_mtu if best else 0,
            tunnel_mtu=self.mtu.announced,
            trusted_until=self.trusted_until,
            loss=self._loss(kind),
            active=self.heartbeat_at is not None or self.relay_ping_at != FOREVER,
            rules=self.rules,
            refused=self._refused(),
            candidates=tuple(candidate.status(self._why_not(candidate)) for candidate in self.candidates),
        )

    def _loss(self, kind: PathKind) -> float | None:
        if kind is PathKind.DIRECT and self.best is not None:
            return self.direct_vitals.loss(self.best.path)
        return self.relay_vitals.loss(self.relay_path())

    def _refused(self) -> str:
        match self.rules.direct:
            case DirectRule.NEVER:
                return self.rules.refusal("direct paths are")
            case DirectRule.ONLY:
                return self.rules.refusal("relayed data is")
        return "" if self.rules.ipv6 else self.rules.refusal("IPv6 is")

    def _why_not(self, candidate: Candidate) -> str:
        if self.best is not None and self.best.path == candidate.path:
            return ""
        if not self.rules.permits(candidate.addr):
            return self.rules.refusal("IPv6 is" if self.allow_direct else "direct paths are")
        if candidate.trouble:
            return candidate.trouble
        if candidate.too_small:
            return "only small packets pass, connections over it would hang: its MTU is too low"
        if candidate.pongs:
            return "another path is better"
        if candidate.sent == 0:
            return "not tried yet"
        waits = any(ping.path == candidate.path for ping in self.sent.values())
        return "waiting for an answer" if waits else "no answer"

"""The addresses at which one peer may be reached: where they come from, when they go, how many are kept.

Source: tailscale wgengine/magicsock/endpoint.go (endpointState, shouldDeleteLocked). The hard bound is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from ..base.addresses import AddrPort
from ..base.paths import UdpPath
from . import constants as c
from .status import CandidateStatus

NEVER = float("-inf")
"""The time of what has not happened yet."""


def is_usable(addr: AddrPort) -> bool:
    """False for what nobody can be reached at: port 0, unspecified, multicast, broadcast, not an address at all."""
    try:
        ip = ip_address(addr.host)
    except ValueError:
        return False
    broadcast = addr.host == "255.255.255.255"
    return 0 < addr.port < 65536 and not (ip.is_unspecified or ip.is_multicast or broadcast)


def _is_link_local_v6(addr: AddrPort) -> bool:
    return addr.is_ipv6 and addr.ip.is_link_local


def _paths(endpoints: Iterable[AddrPort]) -> dict[UdpPath, None]:
    """The addresses without repetition, tried from our main socket."""
    return dict.fromkeys(map(UdpPath, endpoints))


@dataclass(slots=True)
class Candidate:
    """One address of a peer, tried from one of our sockets. Times are those of the last event of their kind."""

    path: UdpPath
    listed: bool = False
    called: bool = False
    suggested: bool = False
    got_ping_at: float = NEVER
    got_txid: bytes = b""
    ping_at: float = NEVER
    sent: int = 0
    answered: int = 0
    pongs: deque[float] = field(default_factory=lambda: deque(maxlen=c.PONG_HISTORY))
    wire_mtu: int = 0
    small_at: float = NEVER
    full_at: float = NEVER
    full_lost: int = 0
    trouble: str = ""

    @property
    def addr(self) -> AddrPort:
        """The peer's end of the path."""
        return self.path.addr

    def is_stale(self, now: float) -> bool:
        """True if nobody vouches for it any more: not the coordinator, a call-me-maybe, a source of ours, nor a recent
        ping."""
        return not self.is_vouched and now - self.got_ping_at > c.SESSION_ACTIVE_TIMEOUT

    @property
    def is_vouched(self) -> bool:
        """On somebody's list: the coordinator's, a call-me-maybe's, or what our own sources saw."""
        return self.listed or self.called or self.suggested

    @property
    def probe_size(self) -> int:
        """UDP payload of the next ping that looks for a path: small until somebody answers, so that nobody can be made
        to receive much; full-size after that, because only such a path is any good."""
        proven = self.pongs and self.full_lost < c.FULL_PINGS_LOST
        return c.PADDED_PING_SIZE if proven else c.UNPADDED_PING_SIZE

    @property
    def too_small(self) -> bool:
        """It answers small packets, and loses full-size ones: a black hole for whoever sends data there."""
        return self.full_lost >= c.FULL_PINGS_LOST and self.small_at > self.full_at

    def forget_probes(self) -> None:
        """Forget what pongs have taught, and allow a ping at once."""
        self.pongs.clear()
        self.full_lost = 0
        self.wire_mtu = 0
        self.ping_at = NEVER

    def status(self, why_not: str) -> CandidateStatus:
        """The evidence about this candidate."""
        flags = (
            ("coordinator", self.listed),
            ("call-me-maybe", self.called),
            ("suggested", self.suggested),
            ("ping", self.got_ping_at > NEVER),
        )
        sources = tuple(name for name, present in flags if present)
        latency = self.pongs[-1] if self.pongs else None
        return CandidateStatus(
            self.addr, sources, self.sent, self.answered, latency, self.wire_mtu, why_not, socket=self.path.local
        )


class CandidateTable:
    """All candidates of one peer. Bounded: 64 listed, 64 called, 32 suggested, and (together with those) 100 learnt
    from pings."""

    __slots__ = ("_by_path",)

    def __init__(self) -> None:
        self._by_path: dict[UdpPath, Candidate] = {}

    def __len__(self) -> int:
        return len(self._by_path)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._by_path.values())

    def get(self, path: UdpPath) -> Candidate | None:
        """The candidate at the end of `path`."""
        return self._by_path.get(path)

    def list_from_coordinator(self, endpoints: Sequence[AddrPort], now: float) -> bool:
        """The coordinator's list replaces its former one. True if an address is new to us."""
        wanted = _paths([addr for addr in endpoints if is_usable(addr)][: c.MAX_LISTED_ENDPOINTS])
        for candidate in self._by_path.values():
            candidate.listed = candidate.path in wanted
        news = self._add(wanted)
        for path in wanted:
            self._by_path[path].listed = True
        self.drop_stale(now)
        return news

    def list_from_call(self, endpoints: Sequence[AddrPort], now: float) -> None:
        """A call-me-maybe's list replaces its former one, and every candidate may be pinged at once."""
        usable = [addr for addr in endpoints if is_usable(addr) and not _is_link_local_v6(addr)]
        wanted = _paths(usable[: c.MAX_LISTED_ENDPOINTS])
        for candidate in self._by_path.values():
            candidate.called = candidate.path in wanted
        self._add(wanted)
        for path in wanted:
            self._by_path[path].called = True
        self.drop_stale(now)
        for candidate in self._by_path.values():
            candidate.ping_at = NEVER

    def list_from_sources(self, endpoints: Sequence[AddrPort], now: float) -> bool:
        """What our own candidate sources (mDNS, say) saw of the peer replaces the former list. True if an address is
        new to us."""
        wanted = _paths([addr for addr in endpoints if is_usable(addr)][: c.MAX_SUGGESTED_ENDPOINTS])
        for candidate in self._by_path.values():
            candidate.suggested = candidate.path in wanted
        news = self._add(wanted)
        for path in wanted:
            self._by_path[path].suggested = True
        self.drop_stale(now)
        return news

    def _add(self, wanted: Iterable[UdpPath]) -> bool:
        """Make sure that there is a candidate for each path. True if one was new."""
        new = [path for path in wanted if path not in self._by_path]
        for path in new:
            self._by_path[path] = Candidate(path)
        return bool(new)

    def learn_from_ping(self, path: UdpPath, txid: bytes, now: float) -> bool:
        """A valid ping came by `path`. False if it is the same ping again (a raw-socket receiver sees all twice)."""
        candidate = self._by_path.get(path)
        if candidate is None:
            if not is_usable(path.addr):
                return True
            if len(self._by_path) >= c.CANDIDATE_PRUNE_THRESHOLD and not self._make_room(now):
                return True
            candidate = self._by_path[path] = Candidate(path)
        elif candidate.got_txid == txid:
            return False
        candidate.got_ping_at, candidate.got_txid = now, txid
        return True

    def _make_room(self, now: float) -> bool:
        """Prune; if that is not enough, evict the oldest that was only learnt from pings, unanswered ones first."""
        self.drop_stale(now)
        if len(self._by_path) < c.CANDIDATE_PRUNE_THRESHOLD:
            return True
        learnt = [one for one in self._by_path.values() if not one.is_vouched and not one.pongs]
        if not learnt:
            return False
        del self._by_path[min(learnt, key=lambda one: one.got_ping_at).path]
        return True

    def drop_stale(self, now: float) -> None:
        """Delete what nobody vouches for any more."""
        stale = [path for path, candidate in self._by_path.items() if candidate.is_stale(now)]
        for path in stale:
            del self._by_path[path]
        # Listed ones that also pinged us stay as learnt when the list drops them: their number needs its own bound.
        learnt = [one for one in self._by_path.values() if not one.is_vouched]
        excess = len(learnt) - c.CANDIDATE_PRUNE_THRESHOLD
        if excess > 0:
            learnt.sort(key=lambda one: (bool(one.pongs), one.got_ping_at))
            for one in learnt[:excess]:
                del self._by_path[one.path]

    def forget_probes(self) -> None:
        """Our sockets were reopened: what pongs have taught holds no more, and extra sockets are gone."""
        self.drop_locals({path.local for path in self._by_path} - {0})
        for candidate in self._by_path.values():
            candidate.forget_probes()

    def drop_locals(self, names: Collection[int]) -> None:
        """Extra sockets were closed: what was tried from them is no path any more."""
        for path in [path for path in self._by_path if path.local in names]:
            del self._by_path[path]

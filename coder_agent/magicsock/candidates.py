"""The addresses at which one peer may be reached: where they come from, when they go, how many are kept.

Source: tailscale wgengine/magicsock/endpoint.go (endpointState, shouldDeleteLocked). The hard bound is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from ..base.addresses import AddrPort
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


@dataclass(slots=True)
class Candidate:
    """One address of a peer. Times are those of the last event of their kind."""

    addr: AddrPort
    listed: bool = False
    called: bool = False
    got_ping_at: float = NEVER
    got_txid: bytes = b""
    ping_at: float = NEVER
    sent: int = 0
    answered: int = 0
    pongs: deque[float] = field(default_factory=lambda: deque(maxlen=c.PONG_HISTORY))
    wire_mtu: int = 0
    trouble: str = ""

    def is_stale(self, now: float) -> bool:
        """True if nobody vouches for it any more: not the coordinator, not a call-me-maybe, not a recent ping."""
        return not self.listed and not self.called and now - self.got_ping_at > c.SESSION_ACTIVE_TIMEOUT

    def forget_probes(self) -> None:
        """Forget what pongs have taught, and allow a ping at once."""
        self.pongs.clear()
        self.wire_mtu = 0
        self.ping_at = NEVER

    def status(self, why_not: str) -> CandidateStatus:
        """The evidence about this candidate."""
        flags = (("coordinator", self.listed), ("call-me-maybe", self.called), ("ping", self.got_ping_at > NEVER))
        sources = tuple(name for name, present in flags if present)
        latency = self.pongs[-1] if self.pongs else None
        return CandidateStatus(self.addr, sources, self.sent, self.answered, latency, self.wire_mtu, why_not)


class CandidateTable:
    """All candidates of one peer. Bounded: 64 listed, 64 called and (together with those) 100 learnt from pings."""

    __slots__ = ("_by_addr",)

    def __init__(self) -> None:
        self._by_addr: dict[AddrPort, Candidate] = {}

    def __len__(self) -> int:
        return len(self._by_addr)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._by_addr.values())

    def get(self, addr: AddrPort) -> Candidate | None:
        """The candidate at `addr`."""
        return self._by_addr.get(addr)

    def list_from_coordinator(self, endpoints: Sequence[AddrPort], now: float) -> bool:
        """The coordinator's list replaces its former one. True if an address is new to us."""
        wanted = dict.fromkeys([addr for addr in endpoints if is_usable(addr)][: c.MAX_LISTED_ENDPOINTS])
        for candidate in self._by_addr.values():
            candidate.listed = candidate.addr in wanted
        return self._merge(wanted, now, called=False)

    def list_from_call(self, endpoints: Sequence[AddrPort], now: float) -> None:
        """A call-me-maybe's list replaces its former one, and every candidate may be pinged at once."""
        usable = [addr for addr in endpoints if is_usable(addr) and not _is_link_local_v6(addr)]
        wanted = dict.fromkeys(usable[: c.MAX_LISTED_ENDPOINTS])
        for candidate in self._by_addr.values():
            candidate.called = candidate.addr in wanted
        self._merge(wanted, now, called=True)
        for candidate in self._by_addr.values():
            candidate.ping_at = NEVER

    def _merge(self, wanted: Iterable[AddrPort], now: float, *, called: bool) -> bool:
        news = False
        for addr in wanted:
            candidate = self._by_addr.get(addr)
            if candidate is None:
                news = True
                candidate = self._by_addr[addr] = Candidate(addr)
            if called:
                candidate.called = True
            else:
                candidate.listed = True
        self.drop_stale(now)
        return news

    def learn_from_ping(self, addr: AddrPort, txid: bytes, now: float) -> bool:
        """A valid ping came from `addr`. False if it is the same ping again (a raw-socket receiver sees all twice)."""
        candidate = self._by_addr.get(addr)
        if candidate is None:
            if not is_usable(addr):
                return True
            if len(self._by_addr) >= c.CANDIDATE_PRUNE_THRESHOLD and not self._make_room(now):
                return True
            candidate = self._by_addr[addr] = Candidate(addr)
        elif candidate.got_txid == txid:
            return False
        candidate.got_ping_at, candidate.got_txid = now, txid
        return True

    def _make_room(self, now: float) -> bool:
        """Prune; if that is not enough, evict the oldest that was only learnt from pings, unanswered ones first."""
        self.drop_stale(now)
        if len(self._by_addr) < c.CANDIDATE_PRUNE_THRESHOLD:
            return True
        learnt = [one for one in self._by_addr.values() if not one.listed and not one.called and not one.pongs]
        if not learnt:
            return False
        del self._by_addr[min(learnt, key=lambda one: one.got_ping_at).addr]
        return True

    def drop_stale(self, now: float) -> None:
        """Delete what nobody vouches for any more."""
        stale = [addr for addr, candidate in self._by_addr.items() if candidate.is_stale(now)]
        for addr in stale:
            del self._by_addr[addr]
        # Listed ones that also pinged us stay as learnt when the list drops them: their number needs its own bound.
        learnt = [one for one in self._by_addr.values() if not one.listed and not one.called]
        excess = len(learnt) - c.CANDIDATE_PRUNE_THRESHOLD
        if excess > 0:
            learnt.sort(key=lambda one: (bool(one.pongs), one.got_ping_at))
            for one in learnt[:excess]:
                del self._by_addr[one.addr]

    def forget_probes(self) -> None:
        """Our sockets were reopened: what pongs have taught holds no more."""
        for candidate in self._by_addr.values():
            candidate.forget_probes()

    def next_ping_at(self) -> float:
        """The earliest time at which a candidate may be pinged again; infinite without candidates."""
        return min((one.ping_at for one in self._by_addr.values()), default=float("inf")) + c.MIN_PING_INTERVAL

"""What a user interface may know about the way to a peer, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.addresses import AddrPort
from ..base.path_rules import NO_RULES, PathRules
from ..base.paths import PathKind


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """One address of a peer that was, or may be, tried.

    `sources`: who named it, of ``coordinator``, ``call-me-maybe``, ``ping``. `sent`/`answered` count our pings to it.
    `local` is
    our socket (UdpPath). `why_not` says why it is not in use; empty for the one that is. Units: `latency` (newest) in
    seconds.
    """

    addr: AddrPort
    sources: tuple[str, ...]
    sent: int
    answered: int
    latency: float | None
    wire_mtu: int
    why_not: str
    local: int = 0


@dataclass(frozen=True, slots=True)
class PathStatus:
    """The way to a peer. `addr` is the direct address in use or being doubted, sent to from our socket `local`,
    `region` the relay (0 = none known).

    Units: `latency` in seconds or None; `wire_mtu` in bytes, 0 = no direct path; `trusted_until` in the core's clock.
    `active`: heartbeats run, for something was sent in the last 45 s. `rules` are those in force for this peer;
    `refused` says in words what they forbid, and whose they are.
    """

    kind: PathKind = PathKind.NONE
    addr: AddrPort | None = None
    region: int = 0
    latency: float | None = None
    wire_mtu: int = 0
    trusted_until: float = float("-inf")
    active: bool = False
    candidates: tuple[CandidateStatus, ...] = ()
    local: int = 0
    rules: PathRules = NO_RULES
    refused: str = ""

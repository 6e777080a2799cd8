"""What a user interface may know about the way to a peer, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.addresses import AddrPort
from ..base.nat_facts import PathReport
from ..base.path_rules import NO_RULES, PathRules
from ..base.paths import PathKind

NO_REPORT = PathReport()
"""Before anything is known."""


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """One address of a peer that was, or may be, tried.

    `sources`: who named it, of ``coordinator``, ``call-me-maybe``, ``ping``. `sent`/`answered` count our pings to it.
    `socket` is ours (UdpPath.local). `why_not` says why it is not in use; empty for the one that is. Units: `latency`
    (newest) in seconds.
    """

    addr: AddrPort
    sources: tuple[str, ...]
    sent: int
    answered: int
    latency: float | None
    wire_mtu: int
    why_not: str
    socket: int = 0


@dataclass(frozen=True, slots=True)
class PathStatus:
    """The way to a peer. `addr` is the direct address in use or being doubted, sent to from our socket
    `socket`, `region` the relay (0 = none known).

    Units: `latency` in seconds or None; `loss`: share of the last regular pings that did not come back, None = too few;
    `wire_mtu` in bytes, 0 = no direct path;
    `tunnel_mtu`: inner packets to the peer are of up to so many bytes now; `trusted_until` in the core's clock.
    `active`: heartbeats run, for something was sent in the last 45 s. `local` is our report,
    `remote` the peer's, None = it told nothing (a stock peer, or not yet). `too_small`: an address answers small
    packets only, so that connections over it would hang; relayed for that. `searching_since`: in the core's clock,
    None = there is a direct path, or nobody wants one. `birthday`: ports are being guessed now. `rules` are those in
    force for this peer; `refused` says in words what they forbid, and whose they are.
    """

    kind: PathKind = PathKind.NONE
    addr: AddrPort | None = None
    region: int = 0
    latency: float | None = None
    wire_mtu: int = 0
    trusted_until: float = float("-inf")
    active: bool = False
    candidates: tuple[CandidateStatus, ...] = ()
    socket: int = 0
    local: PathReport = NO_REPORT
    remote: PathReport | None = None
    too_small: bool = False
    searching_since: float | None = None
    tunnel_mtu: int = 1280
    birthday: bool = False
    rules: PathRules = NO_RULES
    refused: str = ""
    loss: float | None = None

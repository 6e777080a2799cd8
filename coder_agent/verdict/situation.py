"""What is judged: everything that both ends, the relay map and the rules say about one path."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..base.addresses import AddrPort
from ..base.nat_facts import PathReport
from ..base.path_rules import PathRules
from ..base.paths import PathKind
from .causes import Cause
from .fixes import Remedy, Where


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address of the peer, and what became of trying it (the same facts as magicsock's CandidateStatus).

    `sources`: who named it. `sent`/`answered`: pings to it, pongs from it. Units: `latency` in seconds, `wire_mtu` in
    bytes (the largest that was answered, 0 = none). `trouble`: why it does not carry packets, empty if it does.
    """

    addr: AddrPort
    sources: tuple[str, ...] = ()
    sent: int = 0
    answered: int = 0
    latency: float | None = None
    wire_mtu: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """A relay region as this end sees it. `latency` in seconds, None = not measured."""

    id: int
    name: str = ""
    latency: float | None = None


@dataclass(frozen=True, slots=True)
class RelayFacts:
    """The relay map and the relay connections. `connected`: the one that carries call-me-maybes; None = not known."""

    has_stun: bool = True
    regions: tuple[Region, ...] = ()
    home_here: int = 0
    home_there: int = 0
    connected: bool | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything known about the path to one peer.

    `remote` None: the peer told nothing (a stock peer, or not yet). `socket`: our socket that the direct path uses,
    0 = the main one. `searching`: seconds since the search for a direct path began, None = not searching.
    `birthday`: birthday probing runs now. `peer_known` False: the coordinator names no such peer any more.
    `published`: the endpoints that the peer publishes, `own` ours. `rules_*`: those set at either end and for the
    deployment. Units: `latency` in seconds, `wire_mtu` in bytes.
    """

    local: PathReport = field(default_factory=PathReport)
    remote: PathReport | None = None
    kind: PathKind = PathKind.NONE
    addr: AddrPort | None = None
    socket: int = 0
    region: int = 0
    latency: float | None = None
    wire_mtu: int = 0
    attempts: tuple[Attempt, ...] = ()
    published: tuple[AddrPort, ...] = ()
    own: tuple[AddrPort, ...] = ()
    relay: RelayFacts = field(default_factory=RelayFacts)
    rules_here: PathRules = field(default_factory=PathRules)
    rules_there: PathRules = field(default_factory=PathRules)
    rules_deployment: PathRules = field(default_factory=PathRules)
    searching: float | None = None
    birthday: bool = False
    peer_known: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation that the verdict rests on."""

    where: Where
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to "why this path?".

    `summary`: one sentence. `also`: other things that are wrong, each of which would have to be mended too, or be worth
    knowing. `fixes`: each suffices. `next_step`: what to do when nothing can be promised, else empty.
    """

    code: Cause
    kind: PathKind
    summary: str
    evidence: tuple[Evidence, ...] = ()
    also: tuple[Cause, ...] = ()
    fixes: tuple[Remedy, ...] = ()
    next_step: str = ""

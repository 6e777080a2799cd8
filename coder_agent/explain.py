"""Why does a node's path to a peer look as it does? Joins what the cores know into a `verdict.Situation`."""

from __future__ import annotations

from .base.nat_facts import NatFacts, PathReport
from .base.paths import PathKind
from .magicsock.status import PathStatus
from .verdict.situation import Attempt


def attempts_of(status: PathStatus) -> tuple[Attempt, ...]:
    """The candidates of a path, as the verdict wants them."""
    return tuple(
        Attempt(one.addr, one.sources, one.sent, one.answered, one.latency, one.wire_mtu, one.why_not)
        for one in status.candidates
    )


def reports_of(status: PathStatus, facts: NatFacts) -> tuple[PathReport, PathReport | None]:
    """Our report about a path, and the peer's if it has told."""
    candidates = status.candidates
    seen = tuple(one.addr for one in candidates if "ping" in one.sources)
    local = PathReport(
        facts=facts,
        sent=sum(one.sent for one in candidates),
        answered=sum(one.answered for one in candidates),
        seen=len(seen),
        tried=tuple(one.addr for one in candidates if one.sent),
        seen_from=seen[-8:],
        is_direct=status.kind is PathKind.DIRECT,
    )
    return local, None

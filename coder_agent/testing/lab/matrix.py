"""The NAT matrix: what becomes of two nodes in each pair of places, by what means and how fast.

In every cell host ``b`` is an agent that has been up for three seconds and ``a`` a client that starts, learns of it
and at once sends it a packet every 100 ms, each of which is answered. First contact is when ``a`` starts; the path is
direct when both ends trust a direct path. It has to hold for two more seconds, and must carry all packets by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...base.paths import DerpPath
from .host import SimHost
from .laboratory import Lab
from .means import Means, means_of, why_relayed
from .places import RTT, Pair, all_pairs, topology_of
from .topology import Topology

UP_BEFORE = 3.0
LIMIT = 30.0
"""Seconds that a cell has to become direct. Guessing ports needs the most: 20 s in 95 of 100 runs."""
HOLD = 2.0
SEND_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Cell:
    """One result. `seconds` from first contact until both ends were direct, None = relayed, because of `why`."""

    pair: Pair
    seed: int
    means: tuple[Means, ...] = ()
    seconds: float | None = None
    why: str = ""

    @property
    def is_direct(self) -> bool:
        """Both ends use a direct path."""
        return self.seconds is not None

    def document(self) -> dict[str, Any]:
        """For `--output json`; milliseconds are whole."""
        return {
            "name": self.pair.name,
            **asdict(self.pair),
            "direct": self.is_direct,
            "means": [str(one) for one in self.means],
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "why": self.why,
            "seed": self.seed,
        }

    @property
    def words(self) -> str:
        """*Direct by what* or *relayed because what*."""
        return " / ".join(self.means) if self.is_direct else f"relayed: {self.why}"


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two hosts of a topology after they met. `seconds`: see `Cell`."""

    lab: Lab
    a: SimHost
    b: SimHost
    seconds: float | None


def meet(topology: Topology, *, seed: int = 1, limit: float = LIMIT) -> Meeting:
    """Let hosts ``a`` and ``b`` of a topology meet, as described above."""
    lab = Lab(topology, seed)
    a, b = lab.host("a"), lab.host("b")
    b.answers = True
    lab.start("b")
    lab.run(UP_BEFORE)
    contact = lab.now
    lab.introduce("a", "b")
    a.send_each(b, SEND_INTERVAL, contact + limit + HOLD)
    while lab.now < contact + limit:
        if not lab.run(contact + limit - lab.now, until=lambda: a.is_direct(b) and b.is_direct(a)):
            break
        since = lab.now
        lab.run(HOLD)
        if a.is_direct(b) and b.is_direct(a) and _is_carried_directly(a, b, lab.now - HOLD / 4):
            return Meeting(lab, a, b, since - contact)
    return Meeting(lab, a, b, None)


def _is_carried_directly(a: SimHost, b: SimHost, since: float) -> bool:
    newest = [arrival for host in (a, b) for arrival in host.arrivals if arrival.at >= since]
    return bool(newest) and not any(isinstance(arrival.path, DerpPath) for arrival in newest)


def run_cell(pair: Pair, *, seed: int = 1, rtt: float = RTT) -> Cell:
    """One cell."""
    met = meet(topology_of(pair, rtt=rtt), seed=seed)
    if met.seconds is None:
        return Cell(pair, seed, why=why_relayed(met.a, met.b))
    return Cell(pair, seed, means_of(met.a, met.b), met.seconds)


def run_matrix(pairs: Sequence[Pair] | None = None, *, seed: int = 1) -> Iterator[Cell]:
    """Cell by cell (None = all)."""
    for pair in all_pairs() if pairs is None else pairs:
        yield run_cell(pair, seed=seed)

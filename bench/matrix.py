"""The NAT matrix in the simulator: figures of virtual time, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from coder_agent.testing.lab import Pair, topology_of
from coder_agent.testing.lab.matrix import meet, run_matrix
from coder_agent.testing.lab.places import SAME_NAT, SYMMETRIC_PRESERVING, SYMMETRIC_RANDOM, UDP_BLOCKED

from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

EASY = Pair("easy", "easy")
LAN = Pair("easy", SAME_NAT)


def grid(place: Place, plan: Plan) -> Iterator[Row]:
    """Cells that are direct, of those that RFC 4787's rules permit; and how fast the two commonest pairs are.

    More seeds than runs: one cell is milliseconds of work.
    """
    seeds = range(1, 1 + max(plan.runs, 5))
    yield Row.of("matrix", "% direct", [_share(seed) for seed in seeds])
    yield Row.of("matrix", "s easy-easy", [_seconds(EASY, seed) for seed in seeds])
    yield Row.of("matrix", "s LAN", [_seconds(LAN, seed, has_stun=seed % 2 == 0) for seed in seeds])


def birthday(place: Place, plan: Plan) -> Iterator[Row]:
    """Symmetric against port-restricted: how often ports are guessed within 20 s of first contact, and how fast."""
    seconds = [_seconds(Pair("easy", SYMMETRIC_RANDOM), seed) for seed in range(1, 101)]
    yield Row.of("birthday", "% in 20 s", [float(sum(one <= 20 for one in seconds))])
    yield Row.of("birthday", "s median", [median(seconds)])


def is_permitted(pair: Pair) -> bool:
    """Does RFC 4787 leave a way? Not through a wall, a router that does not turn back, or two mappings that vary, one
    of them at random."""
    places = {pair.a, pair.b}
    if SAME_NAT in places:
        return pair.hairpin is not False
    both_vary = places <= {SYMMETRIC_RANDOM, SYMMETRIC_PRESERVING}
    return UDP_BLOCKED not in places and not (both_vary and SYMMETRIC_RANDOM in places)


def _share(seed: int) -> float:
    cells = [cell for cell in run_matrix(seed=seed) if is_permitted(cell.pair)]
    return 100 * sum(cell.is_direct for cell in cells) / len(cells)


def _seconds(pair: Pair, seed: int, *, has_stun: bool = True) -> float:
    topology = topology_of(pair)
    met = meet(topology if has_stun else replace(topology, stun=()), seed=seed)
    return float("inf") if met.seconds is None else met.seconds

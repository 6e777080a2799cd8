"""Throughput on a direct path: one stream of `coder speedtest` between two machines, tunnel MTU 1280."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from . import tailcat
from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

DOWN = ("--direct", "--direction", "down")
UP = ("--direct", "--direction", "up")
UNIT = "Mbit/s"


def against_tailcat(place: Place, plan: Plan) -> Iterator[Row]:
    """Ours and tailcat's, alternating, both directions."""
    place.start()
    with tailcat.pair(place, relayed=False) as peer:
        for id, flags in (("direct_download", DOWN), ("direct_upload", UP)):
            ours, theirs = [], []
            for _ in range(plan.runs):
                ours.append(place.speedtest(plan.seconds, *flags))
                theirs.append(peer.mbits(plan.seconds, download=flags is DOWN))
            yield Row.of(id, UNIT, ours, theirs, tailcat.NAME)


def no_offload(place: Place, plan: Plan) -> Iterator[Row]:
    """A system call per packet on both sides, as on a kernel without GSO and GRO."""
    place.start('plugins.transport_udp.offload = "off"\n')
    yield _slower_direction("direct_no_offload", place, plan)


def no_numpy(place: Place, plan: Plan) -> Iterator[Row]:
    """Plain Python on both sides."""
    place.start("network.vector = false\n")
    yield _slower_direction("direct_no_numpy", place, plan)


def _slower_direction(id: str, place: Place, plan: Plan) -> Row:
    """The bar is for both directions, so the slower one counts."""
    down, up = [], []
    for _ in range(plan.runs):
        down.append(place.speedtest(plan.seconds, *DOWN))
        up.append(place.speedtest(plan.seconds, *UP))
    return Row.of(id, UNIT, min(down, up, key=median))

"""Throughput through a relay: ours over TLS, tailcat's over its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import tailcat
from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan


def download(place: Place, plan: Plan) -> Iterator[Row]:
    """Server, agent and user are three processes; so are tailcat's server with its relay, its client, and iperf3."""
    place.start()
    with tailcat.pair(place, relayed=True) as peer:
        ours, theirs = [], []
        for _ in range(plan.runs):
            ours.append(place.speedtest(plan.seconds, "--disable-direct-connections"))
            theirs.append(peer.mbits(plan.seconds, download=True))
    yield Row.of("relayed_download", "Mbit/s", ours, theirs, f"{tailcat.NAME} + derper")

"""What a benchmark yields, and what it must reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

COLUMNS = ("id", "unit", "ours", "peer", "ratio", "bar", "verdict", "peer_name")
WIDTHS = (22, 16, 10, 10, 8, 24, 9, 0)


@dataclass(slots=True)
class Row:
    """One figure. `peer` is None where an absolute bar is asked; `runs` holds ours, in the order they were measured."""

    id: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    runs: list[float]

    @classmethod
    def of(
        cls, id: str, unit: str, runs: Sequence[float], peer_runs: Sequence[float] = (), peer_name: str | None = None
    ) -> Row:
        """Medians of `runs` and of the peer's, if there is one."""
        ours = median(runs)
        peer = median(peer_runs) if peer_runs else None
        return cls(id, unit, ours, peer, peer_name, ours / peer if peer else None, list(runs))

    def document(self) -> dict[str, object]:
        """The entry in build/bench.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row with this unit has to reach."""

    text: str
    is_met: Callable[[Row], bool]


def _at_least(value: float) -> Callable[[Row], bool]:
    return lambda row: row.ours >= value


def _at_most(value: float) -> Callable[[Row], bool]:
    return lambda row: row.ours <= value


def _times_peer(factor: float) -> Callable[[Row], bool]:
    return lambda row: row.ratio is not None and row.ratio >= factor


def _share_of_peer(share: float) -> Callable[[Row], bool]:
    return lambda row: row.ratio is not None and row.ratio <= share


def _below(value: float) -> Callable[[Row], bool]:
    return lambda row: row.ours < value


def _within(margin: float) -> Callable[[Row], bool]:
    return lambda row: row.peer is not None and row.ours - row.peer <= margin


def _above_peer(row: Row) -> bool:
    return row.ratio is not None and row.ratio > 1


def _below_peer(row: Row) -> bool:
    return row.ratio is not None and row.ratio < 1


BARS: dict[tuple[str, str], Bar] = {
    ("direct_download", "Mbit/s"): Bar("≥ 2 × peer", _times_peer(2)),
    ("direct_upload", "Mbit/s"): Bar("≥ 2 × peer", _times_peer(2)),
    ("direct_no_offload", "Mbit/s"): Bar("≥ 800 Mbit/s", _at_least(800)),
    ("direct_no_numpy", "Mbit/s"): Bar("≥ 1200 Mbit/s", _at_least(1200)),
    ("relayed_download", "Mbit/s"): Bar("≥ 4 × peer", _times_peer(4)),
    ("relay_forward", "1000 frames/s"): Bar("≥ 2 × peer", _times_peer(2)),
    ("relay_forward", "Mbit/s"): Bar("≥ 2 × peer", _times_peer(2)),
    ("relay_forward", "us CPU, 64 B"): Bar("≤ half of peer's", _share_of_peer(0.5)),
    ("relay_forward", "us CPU, 1312 B"): Bar("≤ half of peer's", _share_of_peer(0.5)),
    ("relay_latency", "ms"): Bar("< 0.3 ms", _below(0.3)),
    ("relay_pairs", "% pairs"): Bar("100 %", _at_least(100)),
    ("relay_pairs", "% fan-in"): Bar("100 %", _at_least(100)),
    ("relay_pairs", "% fan-out"): Bar("100 %", _at_least(100)),
    ("relay_idle_clients", "MB RSS, TLS"): Bar("≤ 600 MB", _at_most(600)),
    ("relay_idle_clients", "MB RSS, plain"): Bar("≤ 600 MB", _at_most(600)),
    ("relay_idle_clients", "missed"): Bar("no keepalive", _at_most(0)),
    ("relay_half_open", "MB RSS, TLS"): Bar("≤ 600 MB", _at_most(600)),
    ("relay_half_open", "MB RSS, plain"): Bar("≤ 600 MB", _at_most(600)),
    ("relay_half_open", "s longest, TLS"): Bar("≤ 1 s", _at_most(1.0)),
    ("relay_half_open", "s longest, plain"): Bar("≤ 1 s", _at_most(1.0)),
    ("ping_overhead", "ms"): Bar("≤ peer + 0.5 ms", _within(0.5)),
    ("first_pong", "s"): Bar("≤ 1.5 s", _at_most(1.5)),
    ("time_to_direct", "s"): Bar("≤ 1 s after first pong", _at_most(1.0)),
    ("cli_start", "s CPU"): Bar("< 0.25 s", _at_most(0.25)),
    ("agent_idle", "MB RSS"): Bar("≤ 60 MB", _at_most(60)),
    ("agent_idle", "% CPU"): Bar("< 0.5 %", _at_most(0.5)),
    ("server_idle", "MB RSS"): Bar("< 120 MB", _below(120)),
    ("server_idle", "% CPU"): Bar("< 1 %", _below(1)),
    ("dashboard", "ms cold"): Bar("< 500 ms", _below(500)),
    ("dashboard", "kB"): Bar("< 150 kB", _below(150)),
    ("keystroke", "ms"): Bar("< 15 ms", _below(15)),
    ("keystroke", "ms wire"): Bar("", lambda row: True),
    ("netcheck_time", "s healthy"): Bar("≤ 1.5 s", _at_most(1.5)),
    ("netcheck_time", "s blocked"): Bar("≤ 5 s", _at_most(5)),
    ("matrix", "% direct"): Bar("100 % of permitted", _at_least(100)),
    ("matrix", "s easy-easy"): Bar("≤ 1 s, 50 ms RTT", _at_most(1.0)),
    ("matrix", "s LAN"): Bar("≤ 0.3 s", _at_most(0.3)),
    ("birthday", "% in 20 s"): Bar("≥ 95 %", _at_least(95)),
    ("birthday", "s median"): Bar("≤ 10 s", _at_most(10)),
    ("failover_stall", "ms p99"): Bar("≤ 500 ms", _at_most(500)),
    ("wake", "s"): Bar("≤ 2 s", _at_most(2)),
    ("idle_packets", "packets/s"): Bar("< 1", lambda row: row.ours < 1),
    ("forward_stream", "Mbit/s down"): Bar("≥ 0.8 × peer", _times_peer(0.8)),
    ("forward_stream", "Mbit/s up"): Bar("≥ 0.8 × peer", _times_peer(0.8)),
    ("forward_connects", "per s and core"): Bar("≥ 2000", _at_least(2000)),
    ("forward_latency", "ms"): Bar("< peer + 1 ms", _within(1.0)),
    ("forward_udp", "% lost down"): Bar("nothing", _at_most(0)),
    ("forward_udp", "% lost up"): Bar("nothing", _at_most(0)),
    ("forward_vs_dashboard", "req/s"): Bar("> peer", _above_peer),
    ("forward_vs_dashboard", "ms median"): Bar("< peer", _below_peer),
    ("forward_vs_dashboard", "Mbit/s"): Bar("> peer", _above_peer),
    ("scp", "MB/s"): Bar("≥ 0.5 × peer", _times_peer(0.5)),
    ("ssh_cold", "s"): Bar("< 1.2 s", _below(1.2)),
    ("web_small", "req/s per core"): Bar("≥ 0.5 × peer", _times_peer(0.5)),
    ("web_small", "ms median"): Bar("≤ peer + 2 ms", _within(2)),
    ("web_download", "Mbit/s"): Bar("≥ 0.6 × peer", _times_peer(0.6)),
    ("web_sockets", "held"): Bar("all of 1,000", _at_least(1000)),
    ("bulk_integrity", "GB intact"): Bar("all of 8 × 1 GB", lambda row: row.ours >= 1),
}
"""By id and unit: an id may have a row for each of two things."""


def heading() -> str:
    """The table's first line."""
    return _line(COLUMNS)


def shown(row: Row) -> str:
    """The row of the table."""
    bar = BARS[row.id, row.unit]
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}×"
    verdict = "ok" if bar.is_met(row) else "MISSED"
    cells = (row.id, row.unit, _number(row.ours), _number(row.peer), ratio, bar.text, verdict, row.peer_name or "")
    return _line(cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _line(cells: Iterable[str]) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()

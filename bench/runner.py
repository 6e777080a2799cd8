"""Picks benchmarks, prints their rows, writes build/bench.json.

Environment: BENCH_RUNS (3) runs of each side, alternating; BENCH_SECONDS (4) per throughput run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coder_agent.testing import netns

from . import (
    dashboard,
    direct,
    footprint,
    forward,
    forward_web,
    integrity,
    keystroke,
    latency,
    matrix,
    netcheck,
    relay,
    relayed,
    ssh,
    staying_up,
    web,
)
from .place import Place, Unavailable
from .rows import Row, heading, shown

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "bench.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long."""

    runs: int
    seconds: float


Measure = Callable[[Place, Plan], Iterator[Row]]

BENCHMARKS: Mapping[tuple[str, ...], Measure] = {
    ("direct_download", "direct_upload"): direct.against_tailcat,
    ("direct_no_offload",): direct.no_offload,
    ("direct_no_numpy",): direct.no_numpy,
    ("relayed_download",): relayed.download,
    ("relay_forward",): relay.forward,
    ("relay_latency",): relay.latency,
    ("relay_pairs",): relay.pairs,
    ("relay_idle_clients",): relay.idle_clients,
    ("relay_half_open",): relay.half_open,
    ("ping_overhead",): latency.ping_overhead,
    ("first_pong", "time_to_direct"): latency.first_contact,
    ("cli_start",): footprint.cli_start,
    ("agent_idle",): footprint.agent_idle,
    ("server_idle",): footprint.server_idle,
    ("dashboard",): dashboard.dashboard,
    ("keystroke",): keystroke.keystroke,
    ("netcheck_time",): netcheck.duration,
    ("matrix",): matrix.grid,
    ("birthday",): matrix.birthday,
    ("failover_stall",): staying_up.failover,
    ("wake",): staying_up.wake,
    ("idle_packets",): staying_up.idle,
    ("bulk_integrity",): integrity.bulk,
    ("web_small",): web.small,
    ("web_download",): web.download,
    ("web_sockets",): web.sockets,
    ("forward_stream",): forward.stream,
    ("forward_connects",): forward.connects,
    ("forward_latency",): forward.latency,
    ("forward_udp",): forward.udp,
    ("forward_vs_dashboard",): forward_web.beside_dashboard,
    ("scp",): ssh.scp,
    ("ssh_cold",): ssh.cold,
}
"""Ids that are measured together, in the order of the table."""
KNOWN = [name for ids in BENCHMARKS for name in ids]


def main() -> int:
    """Exit code 1 if something could not be measured; a missed bar is a verdict, not a failure."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", help=f"id of one row: {', '.join(KNOWN)}")
    only = parser.parse_args().only
    if only is not None and only not in KNOWN:
        print(f"error: no benchmark is called {only!r}; there are: {', '.join(KNOWN)}", file=sys.stderr)
        return 1
    if missing := netns.unavailable():
        print(f"error: {missing}; every benchmark runs in namespaces of its own", file=sys.stderr)
        return 1
    plan = Plan(int(os.environ.get("BENCH_RUNS", "3")), float(os.environ.get("BENCH_SECONDS", "4")))
    rows: list[Row] = []
    with _undisturbed():
        failed = _measure(only, plan, rows)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps([row.document() for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(failed)


def _measure(only: str | None, plan: Plan, rows: list[Row]) -> bool:
    failed = False
    print(heading(), flush=True)
    for ids, measure in BENCHMARKS.items():
        if only is not None and only not in ids:
            continue
        try:
            with Place() as place:
                for row in measure(place, plan):
                    if only in (None, row.id):
                        rows.append(row)
                        print(shown(row), flush=True)
        except (Unavailable, RuntimeError, AssertionError, OSError) as error:
            failed = True
            print(f"{', '.join(ids)}: not measured: {error}", file=sys.stderr, flush=True)
    return failed


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let other work on this machine wait, if we may: it would be measured otherwise. Ours and the peers' processes
    inherit the priority alike."""
    group = Path("/proc/self/autogroup")  # with autogroups a process's own priority only counts within its session
    before = os.getpriority(os.PRIO_PROCESS, 0)
    old = "0"
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        if group.exists():
            old = group.read_text().rpartition(" ")[2].strip()
            group.write_text("-20")
    except OSError as error:
        print(f"note: other processes may disturb the figures ({error})", file=sys.stderr)
    try:
        yield
    finally:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, before)
            if group.exists():
                group.write_text(old)
        except OSError:
            pass

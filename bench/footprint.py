"""What it costs to be there: the CPU time of `coder --help`, and an agent that nobody talks to."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .place import BIN, Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

STARTS = 9
SETTLE = 5.0
"""Seconds after the start that are not counted as idle: the search for relays and endpoints ends."""
IDLE = 20.0
"""Seconds that are."""
NOT_STANDARD = "plugins.discovery_mdns.enabled = false"
"""What is installed here without being part of `coder-agent[standard]`, and costs an idle agent (zeroconf, 4 MB)."""


def cli_start(place: Place, plan: Plan) -> Iterator[Row]:
    """CPU seconds of a new process, all installed plugins included."""
    program = [str(BIN / "coder"), "--help"]
    _cpu_of(program)  # compiles, on a fresh machine
    yield Row.of("cli_start", "s CPU", [_cpu_of(program) for _ in range(max(plan.runs, STARTS))])


def _cpu_of(program: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def agent_idle(place: Place, plan: Plan) -> Iterator[Row]:
    """Memory and CPU of an agent that is connected to its server, and to nobody else: `coder-agent[standard]`."""
    place.start_server()
    memory, cpu = [], []
    for _ in range(plan.runs):
        with place.agent(NOT_STANDARD) as agent:
            process = Path("/proc") / str(agent.process.pid)
            time.sleep(SETTLE)
            before = _cpu_seconds(process)
            time.sleep(IDLE)
            cpu.append((_cpu_seconds(process) - before) / IDLE * 100)
            memory.append(_resident_mb(process))
    yield Row.of("agent_idle", "MB RSS", memory)
    yield Row.of("agent_idle", "% CPU", cpu)


def server_idle(place: Place, plan: Plan) -> Iterator[Row]:
    """Memory and CPU of a server with one user who has signed in and one connected agent, and nothing to do."""
    place.start_server()
    process = Path("/proc") / str(place.server.process.pid)
    memory, cpu = [], []
    with place.agent():
        time.sleep(SETTLE)
        for _ in range(plan.runs):
            before = _cpu_seconds(process)
            time.sleep(IDLE)
            cpu.append((_cpu_seconds(process) - before) / IDLE * 100)
            memory.append(_resident_mb(process))
    yield Row.of("server_idle", "MB RSS", memory)
    yield Row.of("server_idle", "% CPU", cpu)


def _cpu_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(process: Path) -> float:
    lines = (process / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6

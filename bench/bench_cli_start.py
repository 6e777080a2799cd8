"""[cli_start] CPU seconds of `coder --help` in a new process, all installed plugins included: the bar is 0.25."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

IDS = ("cli_start",)
RUNS = 9


def run(ids: Sequence[str]) -> Iterable[dict[str, object]]:
    """Measure the rows in `ids`."""
    if "cli_start" in ids:
        program = [str(Path(sys.executable).with_name("coder")), "--help"]
        seconds = [_cpu_of(program) for _ in range(RUNS)]
        yield {"id": "cli_start", "unit": "s CPU", "ours": median(seconds), "runs": seconds}


def _cpu_of(program: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

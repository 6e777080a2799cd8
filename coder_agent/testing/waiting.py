"""How long programs waited for a processor: what a test that measures seconds takes off on a busy machine.

    with WaitMeter(lambda: deployment.programs) as waits:
        ...
        assert after - before - waits.between(before, after) <= 0.5

A program's stalls are its own and the machine's. Linux counts the second kind for each process: the time in which it
could have run and nobody let it. On a machine with nothing else to do that is a few milliseconds in a second.

Source: Linux Documentation/scheduler/sched-stats.rst (``/proc/<pid>/schedstat``: nanoseconds on a processor,
nanoseconds waiting for one, turns).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from .processes import Program

LOOK = 0.05
"""Seconds between two looks."""


class WaitMeter:
    """Looks at programs, and at those that start later, until the block ends. `programs` names them at each look."""

    def __init__(self, programs: Callable[[], Iterable[Program]]) -> None:
        self._programs = programs
        self._waited: dict[int, float] = {}
        self._looks: list[tuple[float, float, float]] = []  # begun, over, seconds waited by then
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waits for a processor")

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> float:
        """Seconds for which the programs waited, all together, from `begin` to `end` (monotonic, in the past). They
        work one after the other on each packet, so their waits add up. To the looks next to these times: a little too
        much rather than too little."""
        self._look()
        before = [total for _, over, total in self._looks if over <= begin]
        after = [total for begun, _, total in self._looks if begun >= end]
        return (after[0] if after else self._looks[-1][2]) - (before[-1] if before else self._looks[0][2])

    def _run(self) -> None:
        while not self._ended.wait(LOOK):
            self._look()

    def _look(self) -> None:
        begun = time.monotonic()
        for program in list(self._programs()):
            pid = program.process.pid
            try:
                fields = Path(f"/proc/{pid}/schedstat").read_text().split()
            except OSError:
                continue  # it has ended, or this system does not count
            if len(fields) == 3:
                self._waited[pid] = int(fields[1]) / 1e9
        self._looks.append((begun, time.monotonic(), sum(self._waited.values())))

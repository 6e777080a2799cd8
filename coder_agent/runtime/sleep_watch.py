"""Notices that the machine slept, or that this program was stopped: the clock that counts sleep has jumped."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from .engine import SLEPT

SLEEP_TICK = 1.0
"""Seconds between looks at whether the machine slept: half of what the first keystroke afterwards may take."""


async def watch_sleep(woke: Callable[[float], None]) -> None:
    """Call `woke` with the seconds each time, until cancelled."""
    before = boot_time()
    while True:
        await anyio.sleep(SLEEP_TICK)
        now = boot_time()
        if now - before > SLEPT:
            woke(now - before)
        before = now


def boot_time() -> float:
    """Seconds of a clock that also counts while the machine sleeps, where there is one; asyncio's does not on Linux and
    macOS (clock_gettime(2), CLOCK_BOOTTIME)."""
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if clock is None else time.clock_gettime(clock)

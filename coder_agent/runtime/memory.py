"""A program that stays for weeks holds no more memory than it needs."""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8
"""Source: glibc malloc/malloc.h."""


def share_one_arena() -> None:
    """From now on, threads take memory from where the main thread does. glibc would give each the beginning of an arena
    of its own, 1 MB that stays when its thread has nothing to do any more; ours rarely ask at the same time, for Python
    lets only one of them run. Does nothing with another C library."""
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system what was needed to start, and is free again. Takes a few milliseconds. Does nothing with
    another C library than glibc."""
    malloc_trim = _of_the_c_library("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_the_c_library(name: str) -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)

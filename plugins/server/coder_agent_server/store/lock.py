"""One server per database file: the coordinator lives in memory, so two servers would each know half of the peers."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class FileLock:
    """An advisory lock on a file of its own. The system drops it when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises BlockingIOError when another process has it, OSError when the file cannot be made."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                try:
                    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
                except OSError as exc:
                    raise BlockingIOError(exc.errno, "locked") from exc
            else:
                import fcntl

                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two different inodes."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

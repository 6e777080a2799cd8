"""The ends of a process's streams, on the event loop: reading with back-pressure, writing without blocking."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Callable

READ = 64 << 10
PIPE_SIZE = 1 << 20
"""Asked of Linux for pipes: the largest that an ordinary user gets. A pipe of 64 KiB halves rsync's speed."""


class Output:
    """Reads what a process writes until it ends."""

    def __init__(self, descriptor: int, deliver: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._deliver = deliver
        self._ended = ended
        self._reading = False
        self.open = True
        os.set_blocking(descriptor, False)
        widen(descriptor)
        self.resume()

    def resume(self) -> None:
        """Read on."""
        if self.open and not self._reading:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._readable)

    def pause(self) -> None:
        """The client does not keep up."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def drain(self) -> None:
        """Deliver what is there now."""
        while self.open and self._read():
            pass

    def close(self) -> None:
        """Read no more. `ended` is not called."""
        if self.open:
            self.pause()
            self.open = False
            os.close(self._descriptor)

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, READ)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process left the terminal
            data = b""
        if data:
            self._deliver(data)
            return True
        self.close()
        self._ended()
        return False


class Input:
    """Writes what a user types or sends. `full` and `drained` tell the channel when to wait."""

    def __init__(self, descriptor: int, full: Callable[[], None], drained: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._full = full
        self._drained = drained
        self._waiting: deque[memoryview] = deque()
        self._ending = False
        self.open = True
        os.set_blocking(descriptor, False)
        widen(descriptor)

    def write(self, data: bytes) -> None:
        """Take all of `data`; calls `full` if it has to be kept for later."""
        if not self.open:
            return
        if self._waiting:
            self._waiting.append(memoryview(data))
            return
        rest = self._try(memoryview(data))
        if rest:
            self._waiting.append(rest)
            self._loop.add_writer(self._descriptor, self._writable)
            self._full()

    def end(self) -> None:
        """Close behind what was written."""
        self._ending = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self.open:
            self.open = False
            if self._waiting:
                self._loop.remove_writer(self._descriptor)
                self._waiting.clear()
            os.close(self._descriptor)

    def _try(self, view: memoryview) -> memoryview:
        try:
            return view[os.write(self._descriptor, view) :]
        except BlockingIOError:
            return view
        except OSError:  # the process closed its end: what is sent now goes nowhere, as in a shell's pipe
            return view[:0]

    def _writable(self) -> None:
        while self._waiting:
            rest = self._try(self._waiting[0])
            if rest:
                self._waiting[0] = rest
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._descriptor)
        self._drained()
        if self._ending:
            self.close()


def widen(descriptor: int) -> None:
    """Make a pipe hold more, where that can be done; anything else is left as it is."""
    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if size is not None:
        try:
            fcntl.fcntl(descriptor, size, PIPE_SIZE)
        except OSError:
            pass  # a terminal, or the user's pipes hold too much already

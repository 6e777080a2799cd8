"""Our own stdin and stdout, which may be terminals, pipes or files, and which other programs may share.

They are read and written by threads: making a terminal non-blocking would do so for the shell that started us, too.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

PIECE = 64 << 10
HIGH_WATER = 1 << 20
"""Bytes waiting for a slow reader of ours at which the workspace is told to stop sending."""


class StandardInput:
    """Delivers what is typed or piped in; `pause` holds it back."""

    def __init__(self, deliver: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._ended = ended
        self._may_read = threading.Event()
        self._may_read.set()

    def start(self) -> None:
        """Read from now on. The thread ends with stdin or with the program."""
        threading.Thread(target=self._read, daemon=True, name="stdin").start()

    def pause(self) -> None:
        """Take no more than the piece that is being read."""
        self._may_read.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_read.set()

    def _read(self) -> None:
        while True:
            self._may_read.wait()
            try:
                data = os.read(0, PIECE)
            except OSError:  # the terminal is gone
                data = b""
            try:
                self._loop.call_soon_threadsafe(*((self._deliver, data) if data else (self._ended,)))
            except RuntimeError:  # the loop is closed: the program ends
                return
            if not data:
                return


class StandardOutput:
    """Writes to a descriptor in order; `full` and `drained` tell when to hold back and go on."""

    def __init__(self, descriptor: int, full: Callable[[], None], drained: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._full = full
        self._drained = drained
        self._changed = threading.Condition()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._held = False
        self._closing = False
        self._done: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._write, daemon=True, name=f"output {descriptor}").start()

    def write(self, data: bytes) -> None:
        """Queue."""
        with self._changed:
            self._pieces.append(data)
            self._waiting += len(data)
            self._changed.notify()
            if self._waiting > HIGH_WATER and not self._held:
                self._held = True
                self._full()

    async def flush(self) -> None:
        """Everything is written, or nobody reads it any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await self._done

    def _write(self) -> None:
        broken = False
        while True:
            with self._changed:
                while not self._pieces and not self._closing:
                    self._changed.wait()
                pieces, self._pieces = self._pieces, []
            if not pieces:
                break
            data = b"".join(pieces)
            try:
                view = memoryview(b"" if broken else data)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError:  # whoever read our output is gone; the workspace's command shall still end as it likes
                broken = True
            with self._changed:
                self._waiting -= len(data)
                resume, self._held = self._held and self._waiting < HIGH_WATER // 2, self._held
                if resume:
                    self._held = False
            if resume:
                self._tell(self._drained)
        self._tell(self._finished)

    def _finished(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _tell(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the program ends
            pass

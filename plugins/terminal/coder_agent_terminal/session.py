"""One terminal: a program, what it wrote, and who looks at it.

The terminal is read as fast as its fastest viewer reads. With nobody looking it is read all the time: a build shall not
wait for somebody to come back. A viewer who falls `history.LIMIT` behind the others is told so and let go; attached
again, it gets the last `history.KEEP` bytes like everybody who comes late.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import anyio

from .history import HIGH_WATER, History
from .protocol import End, Ending, Size

if TYPE_CHECKING:  # an agent without terminals shall not pay for processes
    from .pty_process import PtyProcess

log = logging.getLogger(__name__)

SEND_SIZE = 32 * 1024
"""Bytes handed to a viewer's stream at once."""
LAST_WORDS = 64
"""Reads of what a program wrote before it ended: a terminal holds less, but what left the session may go on writing."""
WRITE_PATIENCE = 30.0
"""Seconds for a viewer's stream to take the end of the output when the program has ended."""


class Sink(Protocol):
    """The part of a byte stream that a viewer's output goes to."""

    async def send(self, item: bytes, /) -> None: ...


@dataclass(eq=False, slots=True)
class Viewer:
    """Who looks at a terminal. `position` is how much of its output the stream has taken."""

    position: int
    replayed: int = 0
    """Bytes of old output that it gets."""
    marks: bool = False
    lost: bool = False
    """Too far behind: its place in the output is gone."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Session:
    """A terminal. `run` until its program or its time ends; `watch` per viewer."""

    def __init__(self, id: UUID, process: PtyProcess, *, idle_timeout: float, history: History | None = None) -> None:
        self.id = id
        self.process = process
        self.ended: End | None = None
        self._idle_timeout = idle_timeout
        self._history = history or History()
        self._viewers: set[Viewer] = set()
        self._output = anyio.Event()
        self._progress = anyio.Event()
        self._people = anyio.Event()
        self._typing = anyio.Lock()

    @property
    def viewers(self) -> int:
        """How many look at it now."""
        return len(self._viewers)

    async def run(self) -> None:
        """Read the terminal until it ends; end everything that it left behind."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._end_when_idle)
                status = await self.process.wait()
                self._read_last_words()
                self._close(End(Ending.EXITED, status))
                tasks.cancel_scope.cancel()
        finally:
            await self.process.end()
            if self.ended is None:
                self._close(End(Ending.EXITED, 128 + 15))

    # ------------------------------------------------------------ viewers

    def attach(self, *, marks: bool = False) -> Viewer:
        """A new viewer, who begins with the replay. `detach` it again."""
        begin = self._history.replay_from()
        viewer = Viewer(begin, self._history.end - begin, marks)
        self._viewers.add(viewer)
        self._wake_people()
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """It does not look any more."""
        self._viewers.discard(viewer)
        self._wake_people()
        self._wake_reader()

    async def show(self, viewer: Viewer, sink: Sink) -> None:
        """Send everything, from the viewer's position to the end of the terminal; then how it ended. Returns early if
        the viewer is too slow. Raises what `sink.send` raises."""
        with viewer.scope:
            await self._show_output(viewer, sink)
        if viewer.lost:
            log.info("terminal %s: a viewer was too slow and is let go", self.id)
            return
        end = self.ended
        if end is not None:
            await sink.send(end.mark() if viewer.marks else end.text())

    async def _show_output(self, viewer: Viewer, sink: Sink) -> None:
        while not viewer.lost:
            if data := self._history.read(viewer.position, SEND_SIZE):
                await sink.send(data)
                viewer.position += len(data)
                self._wake_reader()
            elif self.ended is not None:
                return
            else:
                await self._output.wait()

    async def type(self, data: str) -> None:
        """Keystrokes of any viewer, whole message by whole message. Raises anyio.BrokenResourceError."""
        async with self._typing:
            if self.ended is None:
                await self.process.write(data.encode("utf-8"))

    def resize(self, size: Size) -> None:
        """The last viewer that says a size decides."""
        if self.ended is None:
            self.process.resize(size)

    # ------------------------------------------------------------ inside

    async def _read(self) -> None:
        try:
            while True:
                while self._is_full():
                    await self._progress.wait()
                self._wrote(await self.process.read())
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            pass  # the program closed its terminal, or we did; that it has ended is told by `wait`

    def _read_last_words(self) -> None:
        try:
            for _ in range(LAST_WORDS):
                if not (data := self.process.read_now()):
                    return
                self._wrote(data)
        except (anyio.EndOfStream, OSError):
            pass

    def _wrote(self, data: bytes) -> None:
        self._history.append(data, min((viewer.position for viewer in self._viewers), default=None))
        for viewer in self._viewers:
            if viewer.position < self._history.start:
                viewer.lost = True
                viewer.scope.cancel()
        self._viewers = {viewer for viewer in self._viewers if not viewer.lost}
        self._wake_viewers()

    def _is_full(self) -> bool:
        """Is even the fastest viewer far behind?"""
        fastest = max((viewer.position for viewer in self._viewers), default=self._history.end)
        return self._history.end - fastest >= HIGH_WATER

    async def _end_when_idle(self) -> None:
        while True:
            while self._viewers:
                await self._people.wait()
            with anyio.move_on_after(self._idle_timeout):
                while not self._viewers:
                    await self._people.wait()
                continue
            log.info("terminal %s: nobody looked for %g s", self.id, self._idle_timeout)
            self._close(End(Ending.IDLE))
            await self.process.end()
            return

    def _close(self, end: End) -> None:
        if self.ended is None:
            self.ended = end
        self._wake_viewers()

    def _wake_viewers(self) -> None:
        self._output.set()
        self._output = anyio.Event()

    def _wake_reader(self) -> None:
        self._progress.set()
        self._progress = anyio.Event()

    def _wake_people(self) -> None:
        self._people.set()
        self._people = anyio.Event()

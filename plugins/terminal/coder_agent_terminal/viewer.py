"""`coder terminal`: one terminal in a workspace, shown here, through every failure in between.

A connection that breaks is made again with the same identity, which finds the same shell as long as its agent lives.
"""

from __future__ import annotations

import codecs
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import anyio
import anyio.abc

from coder_agent.base.paths import PathKind
from coder_agent.cli.durations import format_latency
from coder_agent.client import Workspace
from coder_agent.errors import ApiError, AuthError, CoderAgentError, PeerUnreachable, TransportBroken

from . import PORT
from .escapes import HELP, Escapes, Order
from .protocol import End, Init, Input, MarkReader, Size
from .screen import Modes, Seen, without_questions

HEARTBEAT = 5.0
"""Seconds between empty messages: without anything to acknowledge, a dead connection would never be noticed."""
KEY_POLL = 0.5
"""Seconds between two looks at whether the agent was started anew, and has another key."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between attempts to connect again."""
LEFT = 255
"""Exit code of who leaves a shell, as of ssh when its connection ends."""
UNDO_TIMEOUT = 1.0
"""Seconds for the local terminal to take the last bytes."""
CTRL_C = b"\x03"


class Tty(Protocol):
    """The user's end: local_tty.py, or a test."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def size(self) -> Size: ...
    def raw(self) -> AbstractContextManager[None]: ...


class _Lost(Exception):
    """The connection broke; the terminal may live."""


@dataclass(slots=True)
class Viewer:
    """One run of the command. Call `resized` when the local terminal changed its size."""

    workspace: Workspace
    tty: Tty
    id: UUID
    command: str = ""
    escapes: Escapes = field(default_factory=Escapes)
    modes: Modes = field(default_factory=Modes)
    _seen: Seen = field(default_factory=Seen)
    _text: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    _stream: anyio.abc.ByteStream | None = None
    _sending: anyio.Lock = field(default_factory=anyio.Lock)
    _was_shown: bool = False
    _opened: anyio.Event = field(default_factory=anyio.Event)
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def run(self) -> int:
        """Show the terminal until it ends or is left; answers the exit code. Raises CoderAgentError if the workspace is
        gone or forbidden, or cannot be reached at all."""
        first = await self.workspace.open_tcp(PORT)
        with self._scope, self.tty.raw():
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._keyboard)
                    end = await self._stay_connected(first)
                    tasks.cancel_scope.cancel()
                return await self._ended(end)
            finally:
                if undo := self.modes.undo():
                    with anyio.CancelScope(shield=True), anyio.move_on_after(UNDO_TIMEOUT):
                        await self.tty.write(undo)
        return LEFT

    def leave(self) -> None:
        """As if the user had left: `run` returns."""
        self._scope.cancel()

    async def resized(self) -> None:
        """Tell the shell."""
        await self._send(Input(size=self.tty.size()))

    # ------------------------------------------------------------ connections

    async def _stay_connected(self, stream: anyio.abc.ByteStream) -> End | None:
        while True:
            try:
                return await self._show(stream)
            except _Lost:
                await self._say("connection lost: reconnecting; what is typed now is not sent; ~. leaves")
            stream = await self._dial_again()

    async def _dial_again(self) -> anyio.abc.ByteStream:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self.workspace.open_tcp(PORT)
            except (PeerUnreachable, TransportBroken):
                await self._check_workspace()
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _check_workspace(self) -> None:
        """Is there still something to wait for? Raises ApiError, AuthError."""
        try:
            await self.workspace.refresh_agent()
        except (ApiError, AuthError) as exc:
            if isinstance(exc, AuthError) or exc.status in (401, 403, 404):
                raise
        except CoderAgentError:
            pass  # the server is away, too

    async def _show(self, stream: anyio.abc.ByteStream) -> End | None:
        """One connection to its end. Raises _Lost."""
        key = self._key()
        lost = False

        async def watch_agent(scope: anyio.CancelScope) -> None:
            nonlocal lost
            while self._key() in (key, None):  # noqa: ASYNC110 - a workspace does not tell
                await anyio.sleep(KEY_POLL)
            lost = True
            scope.cancel()

        end: End | None = None
        async with stream:
            try:
                await stream.send(Init(self.id, self.tty.size(), self.command, marks=True).encode())
                self._stream = stream
                self._opened.set()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch_agent, tasks.cancel_scope)
                    tasks.start_soon(self._heartbeat)
                    end = await self._output(stream)
                    tasks.cancel_scope.cancel()
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError, _Lost):
                lost = True
            finally:
                self._stream = None
        if lost:
            raise _Lost
        return end

    def _key(self) -> object:
        try:
            return self.workspace.key
        except PeerUnreachable:
            return None

    async def _heartbeat(self) -> None:
        while True:
            await anyio.sleep(HEARTBEAT)
            await self._send(Input())

    # ------------------------------------------------------------ from the agent

    async def _output(self, stream: anyio.abc.ByteStream) -> End | None:
        """Show what comes. Answers how the terminal ended (None: a stock agent, which does not say). Raises _Lost."""
        marks, is_begun, was_shown = MarkReader(), False, self._was_shown
        awaited, old = 0, b""
        while True:
            try:
                data = marks.feed(await stream.receive())
            except anyio.EndOfStream:
                break
            if not is_begun and marks.start is not None:
                is_begun, awaited = True, marks.start.replayed or 0
                if marks.start.replayed is None and was_shown:
                    await self._say("the shell ended with its agent: this is a new one")
            if awaited:
                taken = data[:awaited]
                old, data, awaited = old + taken, data[len(taken) :], awaited - len(taken)
                if awaited:
                    continue
                data, old = without_questions(self._seen.news_of(old)) + data, b""
            await self._display(data)
        rest, end = marks.end()
        await self._display(old + rest)
        if end is None and marks.start is not None:
            raise _Lost  # an agent that says how a terminal ends did not: it went itself
        return end

    async def _display(self, data: bytes) -> None:
        if data:
            self._was_shown = True
            self._seen.feed(data)
            self.modes.feed(data)
            await self.tty.write(data)

    # ------------------------------------------------------------ from the user

    async def _keyboard(self) -> None:
        await self._opened.wait()
        while data := await self.tty.read():
            for part in self.escapes.feed(data):
                if isinstance(part, Order):
                    await self._obey(part)
                elif self._stream is not None:
                    await self._send(Input(self._text.decode(part)))
                elif CTRL_C in part:
                    self.leave()
        await self._send(Input("\x04"))

    async def _send(self, message: Input) -> None:
        """Whole messages, one at a time; what cannot be sent is noticed by whoever reads."""
        async with self._sending:
            if self._stream is not None:
                try:
                    await self._stream.send(message.encode())
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass

    async def _obey(self, order: Order) -> None:
        if order is Order.LEAVE:
            self.leave()
        elif order is Order.HELP:
            await self.tty.write(b"\r\n" + HELP.encode())
        else:
            await self._say(self._path())

    def _path(self) -> str:
        try:
            status = self.workspace.path()
        except PeerUnreachable as exc:
            return exc.message
        latency = "" if status.latency is None else f", {format_latency(status.latency)}"
        if status.kind is PathKind.DIRECT:
            return f"direct{latency}"
        if status.kind is PathKind.RELAYED:
            return f"relayed via {self.workspace.region_name(status.region)}{latency}"
        return "no path yet"

    async def _say(self, message: str) -> None:
        await self.tty.write(f"\r\n[{message}]\r\n".encode())

    async def _ended(self, end: End | None) -> int:
        if end is None:
            return 0
        if end.how != "exited":
            await self._say(end.text().decode().strip("\r\n[]"))
            return LEFT
        return end.status

"""Streams, commands and events for code without an event loop; blocking.py hands them out.

Every call may be interrupted (Ctrl-C, a notebook's stop button): what was waited for is cancelled with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .errors import TransportClosed
from .hooks.events import Event

if TYPE_CHECKING:
    from .hooks.commands import RunningCommand
    from .observing import Events

R = TypeVar("R")
E = TypeVar("E", bound=Event)


class Loop:
    """The event loop in its own thread."""

    def __init__(self, portal: BlockingPortal) -> None:
        self.portal = portal
        self.closed = False

    def call(self, function: Callable[..., Coroutine[Any, Any, R]], *arguments: Any, timeout: float | None = None) -> R:
        """Wait for what `function` does over there; if we are interrupted, it is cancelled.

        Raises TimeoutError after `timeout` seconds, TransportClosed if the workspace is closed.
        """
        if self.closed:
            raise TransportClosed("the workspace is closed", hint="connect again")

        async def bounded() -> R:
            with anyio.fail_after(timeout):
                return await function(*arguments)

        future = self.portal.start_task_soon(bounded)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class _Sends(Protocol):
    async def send(self, item: bytes, /) -> None: ...
    async def aclose(self) -> None: ...


class _Receives(Protocol):
    async def receive(self, max_bytes: int = ..., /) -> bytes: ...


class _Stream(_Sends, _Receives, Protocol):
    async def send_eof(self) -> None: ...


class BlockingOutput:
    """Bytes that arrive: what a command prints."""

    def __init__(self, loop: Loop, stream: _Receives) -> None:
        self._loop, self._receives = loop, stream

    def receive(self, max_bytes: int = 65536, *, timeout: float | None = None) -> bytes:
        """What arrived, at least one byte; ``b""`` at the end. Raises TimeoutError."""
        try:
            return self._loop.call(self._receives.receive, max_bytes, timeout=timeout)
        except anyio.EndOfStream:
            return b""

    def __iter__(self) -> Iterator[bytes]:
        while data := self.receive():
            yield data


class BlockingInput:
    """Where bytes go: what a command reads."""

    def __init__(self, loop: Loop, stream: _Sends) -> None:
        self._loop, self._sends = loop, stream

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send all of `data`; blocks while nobody takes it. Raises TimeoutError."""
        self._loop.call(self._sends.send, data, timeout=timeout)

    def close(self) -> None:
        """Close in order."""
        if not self._loop.closed:
            self._loop.call(self._sends.aclose)


class BlockingStream(BlockingOutput, BlockingInput):
    """A tunnel stream for blocking code. Also a context manager that closes it, and an iterator over what arrives."""

    def __init__(self, loop: Loop, stream: _Stream) -> None:
        BlockingOutput.__init__(self, loop, stream)
        BlockingInput.__init__(self, loop, stream)
        self._stream = stream

    def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        self._loop.call(self._stream.send_eof)

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlockingDatagrams:
    """Datagrams to and from one UDP port of the workspace; see `coder_agent.node.TunnelDatagrams`."""

    def __init__(self, loop: Loop, datagrams: anyio.abc.UnreliableObjectStream[bytes]) -> None:
        self._loop, self._datagrams = loop, datagrams

    def send(self, data: bytes) -> None:
        """Send one."""
        self._loop.call(self._datagrams.send, data)

    def receive(self, *, timeout: float | None = None) -> bytes:
        """The next one. Raises TimeoutError; anyio.BrokenResourceError if nobody listens there."""
        return self._loop.call(self._datagrams.receive, timeout=timeout)

    def close(self) -> None:
        """Give the port back."""
        if not self._loop.closed:
            self._loop.call(self._datagrams.aclose)

    def __enter__(self) -> BlockingDatagrams:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlockingCommand:
    """A command that was started in the workspace."""

    def __init__(self, loop: Loop, command: RunningCommand) -> None:
        self._loop, self._command = loop, command
        self.stdin = BlockingInput(loop, command.stdin)
        self.stdout = BlockingOutput(loop, command.stdout)
        self.stderr = BlockingOutput(loop, command.stderr)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._command.returncode

    def wait(self, *, timeout: float | None = None) -> int:
        """Wait for its end; returns `returncode`. Raises TimeoutError, TransportBroken."""
        return self._loop.call(self._command.wait, timeout=timeout)

    def send_signal(self, name: str) -> None:
        """Send a signal by its name without SIG, such as INT."""
        self._loop.portal.call(self._command.send_signal, name)


class BlockingEvents(Iterator[E], Generic[E]):
    """First how things stand, then what changes; a ``for`` loop over it ends with the workspace, or with `close`."""

    def __init__(self, loop: Loop, events: Events[E]) -> None:
        self._loop, self._events = loop, events

    @property
    def dropped(self) -> int:
        """Events that were lost because nobody read them in time."""
        return self._events.dropped

    def __next__(self) -> E:
        event = self.wait()
        if event is None:
            raise StopIteration
        return event

    def wait(self, *, timeout: float | None = None) -> E | None:
        """The next one; None if there will be no more. Raises TimeoutError."""
        if self._loop.closed:  # nobody puts any more: what waits can be had without the loop
            return self._events.take()
        return self._loop.call(_next, self._events, timeout=timeout)

    def close(self) -> None:
        """No more after those that wait."""
        if not self._loop.closed:
            self._loop.portal.call(self._events.close)


async def _next(events: AsyncIterator[E]) -> E | None:
    return await anext(events, None)

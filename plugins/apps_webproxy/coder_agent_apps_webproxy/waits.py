"""Waiting on an app, on behalf of a browser: it ends early when the browser is gone or the time is up.

asyncio's own futures where the stream allows it, for a small request is little more than its waits; and deadlines that
move with every request but cost a timer only once in a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from coder_agent.hooks.web_apps import ReadyStream

T = TypeVar("T")
NEVER = float("inf")


class Stopped(Exception):
    """Nobody waits for the app any more."""


class Deadline:
    """Calls `late` when its time has come. Moving it on is free: the timer looks again when it fires too early."""

    __slots__ = ("_armed", "_at", "_late", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._at = self._armed = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def move(self, seconds: float | None) -> None:
        """So many seconds from now; None = never."""
        if seconds is None:
            self._at = NEVER
            return
        self._at = self._loop.time() + seconds
        if self._at < self._armed:
            self._arm()

    def close(self) -> None:
        """No timer stays behind."""
        self._at = self._armed = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = self._at
        self._timer = self._loop.call_at(self._at, self._due)

    def _due(self) -> None:
        self._armed, self._timer = NEVER, None
        if self._at == NEVER:
            return
        if self._at <= self._loop.time():
            self._at = NEVER
            self._late()
        else:
            self._arm()


class Waits:
    """The waits of one browser's requests, one request after the other."""

    __slots__ = ("_loop", "_wakers", "deadline", "stopped")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wakers: set[Callable[[], object]] = set()
        self.stopped = False
        self.deadline = Deadline(loop, self.stop)

    def stop(self) -> None:
        """End every wait, and those to come, by Stopped."""
        self.stopped = True
        for wake in list(self._wakers):
            wake()

    async def news(self, stream: ReadyStream) -> None:
        """Wait until `stream` has news. Raises Stopped."""
        if self.stopped:
            raise Stopped
        future: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self._wakers.add(wake)
        stream.on_news = wake
        try:
            await future
        finally:
            stream.on_news = None
            self._wakers.discard(wake)
        if self.stopped:
            raise Stopped

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do something that waits. Raises Stopped."""
        if self.stopped:
            raise Stopped
        with anyio.CancelScope() as scope:
            self._wakers.add(scope.cancel)
            try:
                return await call()
            finally:
                self._wakers.discard(scope.cancel)
        raise Stopped

"""What happens to a workspace's connection, for whoever wants to know: `Workspace.events` and `Workspace.on_event`.

async for event in workspace.events(PathChanged):
    print(event.kind, event.path)
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio

from .hooks.events import Event, EventSink

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Events that wait for one reader; then the oldest go, and are counted."""
E = TypeVar("E", bound=Event)


class Events(AsyncIterator[E], Generic[E]):
    """Events since it was made, oldest first. It ends with the workspace, or with `aclose`; one that nobody holds any
    more is forgotten. For one task; each may have its own."""

    def __init__(self, kinds: tuple[type[E], ...] = (), limit: int = MAX_WAITING) -> None:
        self._kinds = kinds
        self._waiting: deque[E] = deque(maxlen=limit)
        self._changed = anyio.Event()
        self._closed = False
        self.dropped = 0
        """Events that were lost because nobody read them in time."""

    def put(self, event: Event) -> None:
        """One more, if it is of a kind that is wanted."""
        if self._closed or (self._kinds and not isinstance(event, self._kinds)):
            return
        self.dropped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(event)  # type: ignore[arg-type]
        self._changed.set()

    def close(self) -> None:
        """No more after those that wait."""
        self._closed = True
        self._changed.set()

    async def aclose(self) -> None:
        """The same, as streams call it."""
        self.close()

    def __aiter__(self) -> Events[E]:
        return self

    async def __anext__(self) -> E:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._waiting.popleft()


class EventHub:
    """Hands a connection's events to plugins (`first`), to readers and to callbacks. Must not block or raise."""

    def __init__(self, first: EventSink) -> None:
        self._first = first
        self._readers: weakref.WeakSet[Events[Event]] = weakref.WeakSet()
        self._callbacks: list[EventSink] = []

    def __call__(self, event: Event, /) -> None:
        self._first(event)
        for reader in list(self._readers):
            reader.put(event)
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                log.exception("a callback failed on %s and hears no more", type(event).__name__)
                self._forget(callback)

    def add(self, reader: Events[E]) -> Events[E]:
        """From now on `reader` hears."""
        self._readers.add(reader)  # type: ignore[arg-type]
        return reader

    def subscribe(self, callback: EventSink) -> Callable[[], None]:
        """Call `callback` with each event, on the loop's thread; one that raises hears no more. Returns the call that
        ends it."""
        self._callbacks.append(callback)
        return lambda: self._forget(callback)

    def close(self) -> None:
        """There will be no more."""
        for reader in list(self._readers):
            reader.close()
        self._callbacks.clear()

    def _forget(self, callback: EventSink) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)

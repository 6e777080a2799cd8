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

from .hooks.events import (
    ControlChanged,
    Event,
    EventSink,
    PathChanged,
    PathExplained,
    PeerChanged,
    RelayChanged,
)

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Events that wait for one reader; then the oldest go, and are counted."""
MAX_KEPT = 64
"""Events that say how things stand: a workspace's connection has one peer and some relays."""
E = TypeVar("E", bound=Event)


def _subject(event: Event) -> tuple[object, ...] | None:
    """What an event says the state of, until the next of the same; None: it only says what happened."""
    match event:
        case PathChanged(peer=peer) | PathExplained(peer=peer) | PeerChanged(peer=peer):
            return type(event), peer
        case RelayChanged(region=region):
            return type(event), region
        case ControlChanged():
            return (type(event),)
        case _:
            return None


class Events(AsyncIterator[E], Generic[E]):
    """First how things stand, then what changes. It ends with the workspace, or with `aclose`; one that nobody holds
    is forgotten. For one task; each may have its own."""

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

    def take(self) -> E | None:
        """One that waits already, or None."""
        return self._waiting.popleft() if self._waiting else None

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
        self._now: dict[tuple[object, ...], Event] = {}

    def __call__(self, event: Event, /) -> None:
        self._first(event)
        self._keep(event)
        for reader in list(self._readers):
            reader.put(event)
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                log.exception("a callback failed on %s and hears no more", type(event).__name__)
                self._forget(callback)

    def add(self, reader: Events[E]) -> Events[E]:
        """`reader` hears how things stand, and from now on what changes."""
        for event in self._now.values():
            reader.put(event)
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

    def _keep(self, event: Event) -> None:
        subject = _subject(event)
        if subject is not None:
            self._now.pop(subject, None)
            self._now[subject] = event
            if len(self._now) > MAX_KEPT:
                del self._now[next(iter(self._now))]

    def _forget(self, callback: EventSink) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)

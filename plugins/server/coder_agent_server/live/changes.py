"""Who wants to know that something changed: one set of ids per visitor, so that a slow one costs no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import anyio

MAX_DIRTY = 10_000
"""Ids that one visitor's set may hold; beyond that everything is looked at anew."""


class Changes:
    """Tells subscribers which agents and workspaces changed. `touch` never waits."""

    def __init__(self) -> None:
        self._subscribers: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._subscribers)

    def touch(self, what: UUID, *, soon: bool = True) -> None:
        """An agent or workspace changed. `soon` False: it can wait for the visitor's next look (a mere measurement)."""
        for subscription in self._subscribers:
            subscription.add(what, soon)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Changes from now on."""
        subscription = Subscription()
        self._subscribers.add(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.discard(subscription)


class Subscription:
    """One visitor's view of what changed since the last `take`."""

    def __init__(self) -> None:
        self._dirty: set[UUID] = set()
        self._overflowed = False
        self._wake = anyio.Event()

    def add(self, what: UUID, soon: bool) -> None:
        """Remember it."""
        if len(self._dirty) < MAX_DIRTY:
            self._dirty.add(what)
        else:
            self._overflowed = True
        if soon:
            self._wake.set()

    async def wait(self, seconds: float) -> None:
        """Until something changed that cannot wait, for `seconds` at most."""
        with anyio.move_on_after(seconds):
            await self._wake.wait()

    def take(self) -> set[UUID] | None:
        """What changed since the last call; None = too much to tell."""
        dirty, self._dirty = self._dirty, set()
        overflowed, self._overflowed = self._overflowed, False
        self._wake = anyio.Event()
        return None if overflowed else dirty

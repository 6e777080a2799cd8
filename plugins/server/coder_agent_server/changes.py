"""A bell: workspaces were registered or deleted, or people's rights changed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio


class Changes:
    """`ring` it; whoever follows looks again. Several rings before somebody looks are one."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = anyio.Event()

    async def follow(self, at_least_every: float) -> AsyncIterator[None]:
        """Once for each ring, and once when there was none for so many seconds."""
        event = self._event
        while True:
            with anyio.move_on_after(at_least_every):
                await event.wait()
            event = self._event
            yield

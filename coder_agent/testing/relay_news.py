"""What a relay transport tells its node, kept for a test that waits for it."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..base.burst import Burst
from ..base.paths import Path
from ..hooks import RelayChanged
from ..hooks.interfaces import Transport


class RelayNews:
    """A packet sink that takes no packets, and whose `emit` keeps what is said about relays."""

    def __init__(self) -> None:
        self.events: list[RelayChanged] = []
        self._news = anyio.Event()

    def on_burst(self, burst: Burst, path: Path) -> None:
        """Nobody looks at packets here."""

    def on_drained(self) -> None:
        """Nor at the ends of rounds."""

    def on_writable(self, transport: Transport) -> None:
        """Nothing waits to be sent."""

    def on_path_error(self, path: Path, error: OSError) -> None:
        """Nothing was sent."""

    def emit(self, event: object) -> None:
        """An event of the transport's."""
        assert isinstance(event, RelayChanged)
        self.events.append(event)
        self._news.set()
        self._news = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a piece of news after which this holds."""
        with anyio.fail_after(60):
            while not condition():
                await self._news.wait()

    async def first(self) -> RelayChanged:
        """The first thing that was said."""
        await self.until(lambda: self.events)
        return self.events[0]

    async def said(self, words: str) -> None:
        """Until something was said with these words."""
        await self.until(lambda: any(words in event.reason for event in self.events))

    async def up(self) -> None:
        """Until there was a connection."""
        await self.until(lambda: any(event.connected for event in self.events))

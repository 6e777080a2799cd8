"""The open TCP connections of one forward, and what they have carried."""

from __future__ import annotations

from coder_agent.node import Splice

from .books import Book


class Carried:
    """Keeps splices while they live, and their bytes when they are gone."""

    def __init__(self) -> None:
        self._splices: set[Splice] = set()
        self._sent = self._received = 0

    def add(self, splice: Splice) -> None:
        """A connection has begun."""
        self._splices.add(splice)

    def end(self, splice: Splice) -> None:
        """A connection is over; its bytes still count."""
        self._splices.discard(splice)
        self._sent += splice.to_tunnel
        self._received += splice.to_local

    async def wait(self, splice: Splice) -> None:
        """Keep `splice` until it is over."""
        self.add(splice)
        try:
            await splice.wait()
        finally:
            self.end(splice)

    def tick(self, book: Book, now: float) -> None:
        """Bring a book up to date."""
        book.sent = self._sent + sum(splice.to_tunnel for splice in self._splices)
        book.received = self._received + sum(splice.to_local for splice in self._splices)
        book.tick(now)

    def reset(self, why: str) -> None:
        """Reset all connections."""
        for splice in list(self._splices):
            splice.abort(why)

"""Which peer wants to reach which: a directed relation with an index each way."""

from __future__ import annotations

from uuid import UUID


class Tunnels:
    """Directed tunnels between peer ids. The ends need not be connected: a tunnel may wait for its destination."""

    def __init__(self) -> None:
        self._by_source: dict[UUID, set[UUID]] = {}
        self._by_destination: dict[UUID, set[UUID]] = {}

    def add(self, source: UUID, destination: UUID) -> None:
        """Remember a tunnel; harmless if it exists."""
        self._by_source.setdefault(source, set()).add(destination)
        self._by_destination.setdefault(destination, set()).add(source)

    def remove(self, source: UUID, destination: UUID) -> bool:
        """Forget a tunnel; False if there was none."""
        if destination not in self._by_source.get(source, ()):
            return False
        _discard(self._by_source, source, destination)
        _discard(self._by_destination, destination, source)
        return True

    def remove_from(self, source: UUID) -> None:
        """Forget all tunnels that `source` asked for; those towards it stay."""
        for destination in self._by_source.pop(source, set()):
            _discard(self._by_destination, destination, source)

    def count_from(self, source: UUID) -> int:
        """How many tunnels `source` asked for."""
        return len(self._by_source.get(source, ()))

    def destinations(self, source: UUID) -> tuple[UUID, ...]:
        """Where `source` asked to go, in no particular order."""
        return tuple(self._by_source.get(source, ()))

    def peers(self, peer: UUID) -> set[UUID]:
        """Everybody with a tunnel from or to `peer`."""
        return self._by_source.get(peer, set()) | self._by_destination.get(peer, set())

    def linked(self, one: UUID, other: UUID) -> bool:
        """Is there a tunnel between the two, in either direction?"""
        return other in self._by_source.get(one, ()) or one in self._by_source.get(other, ())


def _discard(index: dict[UUID, set[UUID]], key: UUID, value: UUID) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]

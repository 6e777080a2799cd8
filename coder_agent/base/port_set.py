"""Which ports: ``all``, ``none``, or a list like ``80, 8000-8999``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of port numbers, kept as ranges."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> PortSet:
        """Read ``all``, ``none`` or numbers and ranges with commas. Raises ValueError, which says what is wrong."""
        word = text.strip().lower()
        if word in ("all", "none"):
            return ALL_PORTS if word == "all" else NO_PORTS
        return cls(tuple(_ranges(text)))

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and any(first <= port <= last for first, last in self.ranges)

    def __str__(self) -> str:
        if self == ALL_PORTS:
            return "all"
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self.ranges) or "none"


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        ends = [first, last] if dash else [first, first]
        if not all(end.isascii() and end.isdigit() and 1 <= int(end[:6]) <= MAX_PORT for end in ends):
            raise ValueError(f"{part.strip()!r} is not a port or a range of ports (1-{MAX_PORT})")
        if int(ends[0]) > int(ends[1]):
            raise ValueError(f"the range {part.strip()!r} ends before it begins")
        yield int(ends[0]), int(ends[1])


ALL_PORTS = PortSet(((1, MAX_PORT),))
NO_PORTS = PortSet(())

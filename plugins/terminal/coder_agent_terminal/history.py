"""What a terminal wrote, for viewers who read it at their own pace; without I/O.

One buffer serves all viewers: each has a position in it. The last `keep` bytes stay for whoever comes later; what a
viewer has not read yet stays longer, up to `limit`. A viewer who falls further behind has lost its place.
"""

from __future__ import annotations

KEEP = 64 * 1024
"""Bytes replayed to a viewer who attaches (coder agent/reconnectingpty/buffered.go: a ring of 64 KiB)."""
LIMIT = 1 << 20
"""Bytes that a viewer may be behind the fastest one."""
HIGH_WATER = 256 * 1024
"""Bytes that the fastest viewer may be behind the terminal; then the terminal is not read, and its program waits."""
_LINE_SEARCH = 4096
"""Bytes in which a replay that must begin in the middle looks for the beginning of a line."""


class History:
    """A window on the terminal's output. Positions count bytes since the beginning."""

    def __init__(self, *, keep: int = KEEP, limit: int = LIMIT) -> None:
        self._keep = keep
        self._limit = limit
        self._bytes = bytearray()
        self.start = 0
        """The oldest position that can be read."""

    @property
    def end(self) -> int:
        """Where the terminal is."""
        return self.start + len(self._bytes)

    def append(self, data: bytes, oldest: int | None = None) -> None:
        """The terminal wrote `data`; `oldest` is the position of the slowest viewer. Viewers who are before `start`
        afterwards have lost their place."""
        self._bytes += data
        wanted = self.end - self._keep
        if oldest is not None:
            wanted = min(wanted, max(oldest, self.end - self._limit))
        if wanted > self.start:
            del self._bytes[: wanted - self.start]
            self.start = wanted

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position`; nothing if that is the end. `position` must not be before `start`."""
        at = position - self.start
        if at < 0:
            raise ValueError(f"position {position} is gone: the oldest is {self.start}")
        return bytes(self._bytes[at : at + size])

    def replay_from(self) -> int:
        """Where a new viewer begins: `keep` bytes back; if older output is gone, at the next line, or character."""
        at = max(self.start, self.end - self._keep)
        if at == 0:
            return 0
        offset = at - self.start
        newline = self._bytes.find(b"\n", offset, offset + _LINE_SEARCH)
        if newline >= 0:
            return self.start + newline + 1
        while offset < len(self._bytes) and self._bytes[offset] & 0xC0 == 0x80:  # inside a UTF-8 character
            offset += 1
        return self.start + offset

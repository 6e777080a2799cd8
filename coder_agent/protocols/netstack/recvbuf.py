"""What has arrived: bytes in order for the application, and ranges beyond a gap (RFC 9293 §3.10.7.4, RFC 2018)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_SMALL = 1024
_TAIL_LIMIT = 16_384
MAX_RANGES = 512
"""Ranges beyond gaps. A window of 4 MiB with every tenth segment lost has 340; more is an attack on our memory."""

Chunk = bytes | bytearray | memoryview


class ReceiveBuffer:
    """In-order chunks to read, and out-of-order ranges, by unwrapped sequence number. Bounded by the window."""

    __slots__ = ("next", "readable", "_ready", "_ranges", "_recent", "_duplicate")

    def __init__(self, start: int) -> None:
        self.next = start
        """The sequence number that is expected next."""
        self.readable = 0
        """Bytes in order that the application has not read."""
        self._ready: deque[Chunk] = deque()
        self._ranges: list[tuple[int, int, list[Chunk]]] = []
        self._recent: list[int] = []
        self._duplicate: tuple[int, int] | None = None

    @property
    def has_gap(self) -> bool:
        """True if data beyond a gap is held."""
        return bool(self._ranges)

    def append(self, chunks: Sequence[Chunk], size: int) -> None:
        """In-order data at `next`, while nothing is held beyond a gap: the path of nearly everything."""
        _add(self._ready, chunks, size)
        self.next += size
        self.readable += size

    def insert(self, start: int, chunks: Sequence[Chunk], size: int, limit: int) -> int:
        """Data at `start`, in order or not, of which nothing at or beyond `limit` is kept.

        Returns how many bytes became readable. What was here before is kept and reported as a duplicate (RFC 2883).
        """
        end = start + size
        if start < self.next:
            self._note_duplicate(start, min(end, self.next))
        parts = _trim(chunks, max(self.next - start, 0), max(min(end, limit) - start, 0))
        start, end = max(start, self.next), min(end, limit)
        if start >= end:
            return 0
        if start == self.next and not self._ranges:
            self._push(parts, end - start)
            return end - start
        self._merge(start, end, parts)
        return self._drain()

    def sack_blocks(self) -> tuple[tuple[int, int], ...]:
        """Blocks to report: a duplicate once, then the ranges, most recently changed first (RFC 2018 §4)."""
        blocks: list[tuple[int, int]] = []
        if self._duplicate is not None:
            blocks.append(self._duplicate)
            self._duplicate = None
        by_start = {start: end for start, end, _ in self._ranges}
        self._recent = [start for start in self._recent if start in by_start]
        blocks += [(start, by_start[start]) for start in self._recent[:4]]
        return tuple(blocks[:4])

    def read(self, limit: int | None) -> list[bytes | memoryview]:
        """Take up to `limit` bytes (None = all) as a list of chunks."""
        out: list[bytes | memoryview] = []
        left = self.readable if limit is None else min(limit, self.readable)
        self.readable -= left
        while left > 0:
            chunk = self._ready.popleft()
            if len(chunk) > left:
                view = memoryview(chunk)
                self._ready.appendleft(view[left:])
                chunk = view[:left]
            left -= len(chunk)
            out.append(memoryview(chunk) if isinstance(chunk, bytearray) else chunk)
        return out

    def clear(self) -> None:
        """Forget everything unread (the connection is gone)."""
        self._ready.clear()
        self._ranges.clear()
        self._recent.clear()
        self.readable = 0

    def _push(self, parts: Sequence[Chunk], size: int) -> None:
        _add(self._ready, parts, size)
        self.next += size
        self.readable += size

    def _note_duplicate(self, start: int, end: int) -> None:
        if start < end and self._duplicate is None:
            self._duplicate = (start, end)

    def _merge(self, start: int, end: int, parts: list[Chunk]) -> None:
        """Put [start, end) among the ranges; where they overlap, what was there first stays."""
        ranges = self._ranges
        if ranges and ranges[-1][1] == start:  # after a gap everything comes behind the last range
            low, _, held = ranges[-1]
            _add(held, parts, end - start)
            ranges[-1] = (low, end, held)
            self._touch(low)
            return
        first = 0
        while first < len(ranges) and ranges[first][1] < start:
            first += 1
        last = first
        merged: list[Chunk] = []
        at, low = start, start
        while last < len(ranges) and ranges[last][0] <= end:
            old_start, old_end, old = ranges[last]
            if old_start > at:
                merged += _trim(parts, at - start, old_start - start)
            self._note_duplicate(max(old_start, start), min(old_end, end))
            low, at = min(low, old_start), max(at, old_end)
            merged += old
            last += 1
        if last - first == 0 and len(ranges) >= MAX_RANGES:
            return
        if at < end:
            merged += _trim(parts, at - start, end - start)
        ranges[first:last] = [(low, max(at, end), merged)]
        self._touch(low)

    def _touch(self, start: int) -> None:
        if not self._recent or self._recent[0] != start:
            self._recent = [start, *(s for s in self._recent[:8] if s != start)]

    def _drain(self) -> int:
        """Move what has become in-order to the application."""
        before = self.next
        while self._ranges and self._ranges[0][0] <= self.next:
            start, end, parts = self._ranges.pop(0)
            if end > self.next:
                self._push(_trim(parts, self.next - start, end - start), end - self.next)
        return self.next - before


def _add(queue: deque[Chunk] | list[Chunk], parts: Sequence[Chunk], size: int) -> None:
    """Append chunks; tiny ones are copied together, because each would cost many times its size."""
    if size >= _SMALL:
        queue.extend(parts)
        return
    tail = queue[-1] if queue else None
    if not isinstance(tail, bytearray) or len(tail) > _TAIL_LIMIT:
        tail = bytearray()
        queue.append(tail)
    for part in parts:
        tail += part


def _trim(parts: Sequence[Chunk], begin: int, end: int) -> list[Chunk]:
    """Bytes `begin`…`end` of a list of chunks."""
    out: list[Chunk] = []
    for part in parts:
        size = len(part)
        if begin <= 0 and end >= size:
            out.append(part)
        elif begin < size and end > 0:
            out.append(memoryview(part)[max(begin, 0) : min(end, size)])
        begin -= size
        end -= size
        if end <= 0:
            break
    return out

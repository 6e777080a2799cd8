"""A chunked body on its way through: checked strictly, its end found, its bytes not copied more than once.

Layout: ``size-in-hex [;extensions] CRLF data CRLF … 0 CRLF [trailers] CRLF``. Extensions are dropped: no two programs
agree on how to read them, and requests have been smuggled in them. Source: RFC 9112 §7.1.
"""

from __future__ import annotations

import re
from enum import Enum

MAX_LINE = 1024
"""Bytes of a size line with its extensions."""
MAX_TRAILERS = 16 << 10

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILERS = re.compile(rb"(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")
_TRAILER_NAME = re.compile(rb"(?:^|\r\n)([^:\r\n]+):")
FORBIDDEN = frozenset(
    [b"transfer-encoding", b"content-length", b"host", b"connection", b"upgrade", b"trailer", b"authorization",
     b"cookie", b"set-cookie", b"content-type", b"content-encoding", b"content-range", b"expect", b"te"]
)  # fmt: skip
"""Fields that a trailer must not smuggle in behind the decisions. Source: RFC 9110 §6.5.1."""


class BadChunk(ValueError):
    """The body breaks the rules: its connection must be closed."""


class _State(Enum):
    SIZE = 1
    DATA = 2
    DATA_END = 3
    TRAILERS = 4
    DONE = 5


class ChunkedBody:
    """Feed it what arrives; it says what to pass on. With `decode` the data alone, for peers that know no chunks."""

    def __init__(self, *, decode: bool = False) -> None:
        self._decode = decode
        self._state = _State.SIZE
        self._left = 0
        self._held = b""
        self.rest = b""
        """What came behind the end of the body."""

    @property
    def done(self) -> bool:
        """Has the whole body passed?"""
        return self._state is _State.DONE

    def feed(self, data: bytes) -> bytes:
        """What to pass on for `data`. Raises BadChunk."""
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes | memoryview] = []
        at = 0
        while at < len(data) or self._state is _State.DONE:
            step = self._step(data, at, out)
            if step < 0:
                break
            at = step
        if self._state is _State.DONE:
            self.rest = data[at:]
        return b"".join(out)

    def _step(self, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        """Do one thing; returns how far we are, -1 when more must come first or nothing more will."""
        if self._state is _State.DATA:
            end = min(len(data), at + self._left)
            out.append(memoryview(data)[at:end])
            self._left -= end - at
            if not self._left:
                self._state = _State.DATA_END
            return end
        if self._state is _State.DATA_END:
            return self._data_end(data, at, out)
        if self._state is _State.SIZE:
            return self._size(data, at, out)
        if self._state is _State.TRAILERS:
            return self._trailers(data, at, out)
        return -1

    def _size(self, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        end = data.find(b"\r\n", at, at + MAX_LINE)
        if end < 0:
            if len(data) - at >= MAX_LINE or b"\n" in data[at:]:
                raise BadChunk("a chunk's size line does not end as it must")
            self._held = data[at:]
            return -1
        found = _SIZE.fullmatch(data, at, end)
        if found is None:
            raise BadChunk("a chunk's size is not a hexadecimal number")
        self._left = int(found[1], 16)
        if not self._decode:
            out.append(b"%x\r\n" % self._left)
        self._state = _State.DATA if self._left else _State.TRAILERS
        return end + 2

    def _data_end(self, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        if len(data) - at < 2:
            if data[at:] != b"\r":
                raise BadChunk("a chunk is longer than it says")
            self._held = data[at:]
            return -1
        if data[at : at + 2] != b"\r\n":
            raise BadChunk("a chunk is longer than it says")
        if not self._decode:
            out.append(b"\r\n")
        self._state = _State.SIZE
        return at + 2

    def _trailers(self, data: bytes, at: int, out: list[bytes | memoryview]) -> int:
        if data.startswith(b"\r\n", at):
            end = at + 2
        elif (blank := data.find(b"\r\n\r\n", at, at + MAX_TRAILERS)) >= 0:
            end = blank + 4
        else:
            if len(data) - at >= MAX_TRAILERS:
                raise BadChunk("the trailers are too long")
            self._held = data[at:]
            return -1
        block = data[at:end]
        if not _TRAILERS.fullmatch(block):
            raise BadChunk("a trailer line is malformed")
        if any(name.lower() in FORBIDDEN for name in _TRAILER_NAME.findall(block)):
            raise BadChunk("a trailer names a field that must not be one")
        if not self._decode:
            out.append(block)
        self._state = _State.DONE
        return end

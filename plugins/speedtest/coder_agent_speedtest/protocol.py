"""The speedtest protocol: one JSON line each way, then raw bytes in one direction until the sender closes.

    client → server   {"version":2,"time":5000000000,"direction":0}\\n
    server → client   {}\\n     or   {"error":"…"}\\n and close     (from ours also {"figures":{…}})

`time` is in nanoseconds; direction 0 = download (the server sends), 1 = upload. Source: tailscale net/speedtest.
No I/O here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import IntEnum

from coder_agent.errors import RemoteProtocolError

from .bottleneck import Figures

VERSION = 2
BLOCK_SIZE = 2 * 1024 * 1024
"""Bytes written at a time by a sender; stock receivers count whole blocks only."""
DEFAULT_SECONDS = 5.0
MIN_SECONDS, MAX_SECONDS = 5.0, 30.0
"""Bounds that the stock constants name. Callers enforce them, the server does not."""
MAX_LINE = 4096
"""Our limit for the JSON line; real ones have fewer than 200 bytes."""
INTERVAL = 1.0
MIN_INTERVAL = 0.010
"""A tail shorter than this many seconds is not reported."""


class Direction(IntEnum):
    """From the client's point of view."""

    DOWNLOAD = 0
    UPLOAD = 1

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    direction: Direction
    seconds: float

    def encode(self) -> bytes:
        """The request line, as a Go client writes it."""
        return b'{"version":%d,"time":%d,"direction":%d}\n' % (VERSION, round(self.seconds * 1e9), self.direction)

    @classmethod
    def parse(cls, line: bytes) -> Request:
        """Read a request line. Raises RemoteProtocolError; its message is what the client is told."""
        document = _object(line)
        version = document.get("version")
        if version != VERSION:
            raise RemoteProtocolError(f"version mismatch! Server is version {VERSION}, client is version {version}")
        nanoseconds, direction = document.get("time", 0), document.get("direction", 0)
        if not isinstance(nanoseconds, int) or not 0 < nanoseconds <= int(MAX_SECONDS * 20e9):
            raise RemoteProtocolError("time must be a positive number of nanoseconds, at most ten minutes")
        if direction not in (0, 1):
            raise RemoteProtocolError("direction must be 0 (download) or 1 (upload)")
        return cls(Direction(direction), nanoseconds / 1e9)


def encode_reply(error: str = "", figures: Figures | None = None) -> bytes:
    """The server's answer. Stock clients ignore `figures`, which ours use to name the bottleneck."""
    document: dict[str, object] = {"error": error} if error else {}
    if figures is not None:
        document["figures"] = asdict(figures)
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def parse_reply(line: bytes) -> Figures | None:
    """Read the server's answer: its figures, None from a stock one. Raises RemoteProtocolError with its words if it
    refuses."""
    document = _object(line)
    if error := document.get("error"):
        raise RemoteProtocolError(f"the workspace refused the speed test: {str(error)[:200]}")
    told = document.get("figures")
    if not isinstance(told, dict):
        return None
    numbers = [told.get(field.name) for field in fields(Figures)]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        return None
    return Figures(*numbers)  # type: ignore[arg-type]


def _object(line: bytes) -> dict[str, object]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # brackets in brackets in brackets …
        raise RemoteProtocolError("not a speedtest message: bad JSON") from None
    if not isinstance(document, dict):
        raise RemoteProtocolError("not a speedtest message: not a JSON object")
    return document


class LineReader:
    """Collects the first line of a stream and keeps what came behind it: payload may share its packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> bytes | None:
        """The line without its end, once it is complete. Raises RemoteProtocolError beyond MAX_LINE."""
        self._buffer += data
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE:
                raise RemoteProtocolError("not a speedtest message: the line is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    @property
    def rest(self) -> int:
        """Bytes that came behind the line."""
        return len(self._buffer)


@dataclass(frozen=True, slots=True)
class Interval:
    """Bytes moved between two times, in seconds since the start of the test."""

    size: int
    start: float
    end: float

    @property
    def megabits(self) -> float:
        """Decimal megabits."""
        return self.size * 8 / 1e6

    @property
    def megabits_per_second(self) -> float:
        """Decimal megabits per second; 0 for an empty span."""
        span = self.end - self.start
        return self.megabits / span if span > 0 else 0.0


class Meter:
    """Cuts a transfer into intervals of at least one second.

    Stock receivers count whole blocks of 2 MiB, so slow links jump or show nothing at all; this one counts bytes.
    """

    def __init__(self, now: float) -> None:
        self._start = self._mark = self._last = now
        self._since_mark = 0
        self.size = 0

    def add(self, size: int, now: float) -> Interval | None:
        """`size` more bytes have moved by `now`; an interval if one is complete."""
        self._since_mark += size
        self.size += size
        self._last = now
        return self._cut(now) if now - self._mark >= INTERVAL else None

    def finish(self, now: float | None = None) -> Interval | None:
        """The tail since the last cut, if it is long enough to mean something."""
        if now is not None:
            self._last = now
        return self._cut(self._last) if self._last - self._mark > MIN_INTERVAL else None

    def total(self) -> Interval:
        """The whole test so far."""
        return Interval(self.size, 0.0, self._last - self._start)

    def _cut(self, now: float) -> Interval:
        interval = Interval(self._since_mark, self._mark - self._start, now - self._start)
        self._mark, self._since_mark = now, 0
        return interval

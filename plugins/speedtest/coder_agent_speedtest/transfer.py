"""Moving the bytes of a speed test over a tunnel stream, either role."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import anyio
import anyio.abc

from coder_agent.errors import RemoteProtocolError
from coder_agent.node import TunnelStream

from .bottleneck import Figures
from .protocol import BLOCK_SIZE, Direction, LineReader, Request, parse_reply

GRACE = 5.0
"""Seconds beyond the duration until a receiver gives the test up (net/speedtest)."""
REPORT_EVERY = 0.25
"""Seconds after which a sender looks at the clock even if its block does not move."""
READ_SIZE = 1 << 20
"""Bytes taken from the tunnel per turn."""

Count = Callable[[int], None]
"""Told of the bytes that have moved, as they do."""


class Ledger:
    """What this process has sent in speed tests, and lost: one of the things that may limit a test."""

    def __init__(self) -> None:
        self._sent = self._lost = 0

    def add(self, stream: TunnelStream) -> None:
        """`stream` has sent what it had to."""
        info = stream.connection.info()
        self._sent += -(-stream.sent_bytes // max(1, int(info["mss"])))
        self._lost += int(info["retransmits"])

    def figures(self) -> Figures:
        """As they are now."""
        return Figures(time.monotonic(), time.process_time(), _waited(), self._sent, self._lost)


def _waited() -> float:
    """Seconds that this thread wanted to run and another had the core. Source: Linux, scheduler/sched-stats.rst."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


async def read_line(stream: TunnelStream) -> tuple[bytes, int]:
    """The first line, and how many payload bytes came with it. Raises RemoteProtocolError."""
    reader = LineReader()
    while True:
        try:
            data = await stream.receive()
        except anyio.EndOfStream:
            raise RemoteProtocolError("the other side closed the connection before the test began") from None
        line = reader.feed(data)
        if line is not None:
            return line, reader.rest


async def ask(stream: TunnelStream, request: Request) -> tuple[Figures | None, int]:
    """Begin a test: the other side's figures, and how many payload bytes came with them.

    Raises RemoteProtocolError (refused, cut short), TimeoutError.
    """
    await stream.send(request.encode())
    with anyio.fail_after(request.seconds + GRACE):
        line, early = await read_line(stream)
    return parse_reply(line), early


async def run_test(stream: TunnelStream, request: Request, count: Count, ledger: Ledger) -> Figures | None:
    """The client's side of one stream of a test. Returns the other side's figures as they were at its beginning.

    Raises RemoteProtocolError (refused, cut short), TimeoutError (nothing arrives any more).
    """
    figures, early = await ask(stream, request)
    count(early)  # the clock starts here
    if request.direction is Direction.DOWNLOAD:
        await receive(stream, request.seconds, count)
    else:
        await send(stream, request.seconds, count)
        ledger.add(stream)
    return figures


async def receive(stream: TunnelStream, seconds: float, count: Count) -> None:
    """Count what arrives until the sender closes."""
    with anyio.fail_after(seconds + GRACE):
        while True:
            try:
                chunks = await stream.receive_chunks(READ_SIZE)
            except anyio.EndOfStream:
                return
            count(sum(map(len, chunks)))


async def send(stream: TunnelStream, seconds: float, count: Count) -> None:
    """Send random blocks for `seconds`, then close our direction.

    Counts what the other side has acknowledged, not what our send buffer swallowed: on a slow link that is the
    difference between the truth and the size of the buffer.
    """
    block = os.urandom(BLOCK_SIZE)
    before = counted = stream.sent_bytes
    start = time.monotonic()
    while (now := time.monotonic()) - start <= seconds:
        # A cancelled send may have queued part of the block; the next one starts a new block, which is as random.
        with anyio.move_on_after(min(REPORT_EVERY, seconds - (now - start) + 0.001)):
            await stream.send(block)
        acknowledged = max(before, stream.sent_bytes - stream.unacknowledged)
        count(acknowledged - counted)
        counted = acknowledged
    await stream.send_eof()

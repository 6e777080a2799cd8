"""Moving the bytes of a speed test over a tunnel stream, either role."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import anyio
import anyio.abc

from coder_agent.errors import RemoteProtocolError
from coder_agent.node import TunnelStream

from .protocol import BLOCK_SIZE, Direction, Interval, LineReader, Meter, Request, parse_reply

GRACE = 5.0
"""Seconds beyond the duration until a receiver gives the test up (net/speedtest)."""
REPORT_EVERY = 0.25
"""Seconds after which a sender looks at the clock even if its block does not move."""
READ_SIZE = 1 << 20
"""Bytes taken from the tunnel per turn."""

Report = Callable[[Interval], None]


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


async def run_test(stream: TunnelStream, request: Request, report: Report) -> Interval:
    """The client's side of one test. `report` is called with each interval as it ends.

    Returns the total. Raises RemoteProtocolError (refused, cut short), TimeoutError (nothing arrives any more).
    """
    await stream.send(request.encode())
    with anyio.fail_after(request.seconds + GRACE):
        line, early = await read_line(stream)
    parse_reply(line)
    if request.direction is Direction.DOWNLOAD:
        return await receive(stream, request.seconds, report, early)
    return await send(stream, request.seconds, report)


async def receive(stream: TunnelStream, seconds: float, report: Report, early: int = 0) -> Interval:
    """Count what arrives until the sender closes; `early` bytes came with the reply."""
    meter = Meter(time.monotonic())
    meter.add(early, time.monotonic())
    with anyio.fail_after(seconds + GRACE):
        while True:
            try:
                chunks = await stream.receive_chunks(READ_SIZE)
            except anyio.EndOfStream:
                break
            if interval := meter.add(sum(map(len, chunks)), time.monotonic()):
                report(interval)
    if tail := meter.finish():
        report(tail)
    return meter.total()


async def send(stream: TunnelStream, seconds: float, report: Report) -> Interval:
    """Send random blocks for `seconds`, then close our direction.

    Counts what the other side has acknowledged, not what our send buffer swallowed: on a slow link that is the
    difference between the truth and the size of the buffer.
    """
    block = os.urandom(BLOCK_SIZE)
    before = stream.sent_bytes
    start = time.monotonic()
    meter = Meter(start)
    while (now := time.monotonic()) - start <= seconds:
        # A cancelled send may have queued part of the block; the next one starts a new block, which is as random.
        with anyio.move_on_after(min(REPORT_EVERY, seconds - (now - start) + 0.001)):
            await stream.send(block)
        acknowledged = stream.sent_bytes - before - stream.unacknowledged
        if interval := meter.add(acknowledged - meter.size, time.monotonic()):
            report(interval)
    if tail := meter.finish(time.monotonic()):
        report(tail)
    await stream.send_eof()
    return meter.total()

"""Joining two byte streams, with half-close and failure carried across."""

from __future__ import annotations

import anyio
import anyio.abc


async def pipe(a: anyio.abc.ByteStream, b: anyio.abc.ByteStream) -> None:
    """Copy both ways until both directions ended. The end of one direction is passed on as a half-close, so a client
    that sends a request and closes its side still gets its answer. If either side breaks, both are given up.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_copy, a, b)
            tasks.start_soon(_copy, b, a)
    except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
        for stream in (a, b):
            abort = getattr(stream, "abort", None)
            if abort is not None:
                abort()


async def _copy(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
    try:
        while True:
            await sink.send(await source.receive())
    except anyio.EndOfStream:
        await sink.send_eof()

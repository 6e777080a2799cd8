"""`coder ssh --stdio`: bytes between our standard streams and the agent's SSH server, for ProxyCommand."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from .joining import MAX_PARTS, rest_of
from .network_info import Traffic
from .pipes import widen

PIECE = 256 << 10
STDIN, STDOUT = 0, 1


async def pump(stream: anyio.abc.ByteStream, traffic: Traffic) -> None:
    """Copy both ways until the agent closes, or stdin ends, or whoever reads stdout is gone.

    An end of stdin is the end of all: ssh closes it when it is done or dies, and then nobody reads answers.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_upload, stream, traffic, tasks.cancel_scope)
        await _download(stream, traffic)
        tasks.cancel_scope.cancel()


async def _upload(stream: anyio.abc.ByteStream, traffic: Traffic, scope: anyio.CancelScope) -> None:
    quick = _is_pipe(STDIN)
    if quick:
        widen(STDIN)
    try:
        while True:
            if quick:
                await anyio.wait_readable(STDIN)
                data = os.read(STDIN, PIECE)
            else:
                data = await anyio.to_thread.run_sync(os.read, STDIN, PIECE, abandon_on_cancel=True)
            if not data:
                break
            traffic.up += len(data)
            await stream.send(data)
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    scope.cancel()


async def _download(stream: anyio.abc.ByteStream, traffic: Traffic) -> None:
    quick = _is_pipe(STDOUT)
    if quick:
        widen(STDOUT)
        os.set_blocking(STDOUT, False)
    try:
        receive_chunks = getattr(stream, "receive_chunks", None)
        while True:
            parts: Sequence[Any] = await receive_chunks(PIECE) if receive_chunks else [await stream.receive(PIECE)]
            traffic.down += sum(map(len, parts))
            if quick:
                await _write(parts)
            else:
                await anyio.to_thread.run_sync(_write_blocking, b"".join(parts))
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
    finally:
        if quick:
            os.set_blocking(STDOUT, True)


async def _write(parts: Sequence[Any]) -> None:
    views = [memoryview(part) for part in parts]
    while views:
        try:
            views = rest_of(views, os.writev(STDOUT, views[:MAX_PARTS]))
        except BlockingIOError:
            await anyio.wait_writable(STDOUT)


def _write_blocking(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]


def _is_pipe(descriptor: int) -> bool:
    """A pipe or socket is ours alone and can be waited for; a file cannot, and a terminal is shared with others."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

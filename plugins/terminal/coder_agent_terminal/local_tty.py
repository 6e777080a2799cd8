"""The terminal that the user sits at: raw while we have it, as before when we leave, however we leave."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread

from .protocol import Size

READ_SIZE = 65536
NO_SIZE = Size(24, 80)
"""What a shell gets whose output is no terminal: the VT100's."""


def is_terminal() -> bool:
    """Does a person sit here?"""
    return os.isatty(sys.stdin.fileno()) and os.isatty(sys.stdout.fileno())


def size() -> Size:
    """Of the terminal that we write to."""
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return NO_SIZE
    return Size(lines, columns) or NO_SIZE


@contextmanager
def raw() -> Iterator[None]:
    """Every key comes as it is typed, Ctrl-C too. Does nothing to what is no terminal."""
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def read() -> bytes:
    """What was typed; empty at the end of the input."""
    fd = sys.stdin.fileno()
    try:
        await anyio.wait_readable(fd)
    except PermissionError:  # a file: always readable, and epoll will not have it
        return await anyio.to_thread.run_sync(os.read, fd, READ_SIZE)
    return os.read(fd, READ_SIZE)


async def write(data: bytes) -> None:
    """Show; waits for a slow terminal without stopping the tunnel."""
    await anyio.to_thread.run_sync(_write, data, abandon_on_cancel=True)


def _write(data: bytes) -> None:
    fd = sys.stdout.fileno()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

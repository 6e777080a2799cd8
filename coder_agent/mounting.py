"""Serve into the tunnel from a program in the workspace, without opening a TCP port there.

    async with coder_agent.listen(8123, serve):      # serve(stream) is called for each connection
        await anyio.sleep_forever()

    async with coder_agent.listen(8123, asgi.handler(app)):
        ...

Users reach it like any port of the workspace: by its port URL, as an app (`coder app add dev notes 8123`), by
`coder port-forward`. The agent of this machine must run as the same user.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc

from .errors import ConfigError
from .runtime.background import background
from .runtime.mounts import ENVIRON, MAX_PATH, mounts_folder, socket_of

log = logging.getLogger(__name__)

Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]
MAX_CONNECTIONS = 1024
"""Connections at one time; more wait in the socket's backlog."""
FIRST_PORT = 9
"""Ports below belong to the agent (coder tailnet/conn.go)."""


@asynccontextmanager
async def listen(port: int, serve: Serve, *, folder: Path | None = None) -> AsyncIterator[None]:
    """Serve connections to `port` of this workspace while the block runs, a task each; a stream is closed when `serve`
    ends, whatever it raises.

    Raises ConfigError: the port is taken by another program that does this, or the folder cannot be used.
    """
    if not FIRST_PORT <= port <= 65535:
        raise ConfigError(f"port {port}: choose one from {FIRST_PORT} to 65535")
    path = socket_of(mounts_folder() if folder is None else folder, port)
    _prepare(path, port)
    slots = anyio.CapacityLimiter(MAX_CONNECTIONS)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with LocalStream(reader, writer) as stream, slots:
            try:
                await serve(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as exc:
                log.debug("a connection to port %d ended: %r", port, exc)
            except Exception:  # one connection's failure is not the others'
                log.exception("serving a connection to port %d failed", port)

    async with background() as tasks:

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.start_soon(connection, reader, writer)

        server = await _bind(path, connected)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)


async def _bind(
    path: Path, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
) -> asyncio.AbstractServer:
    try:
        before = os.umask(0o177)  # only its user may connect, from the first moment on
        try:
            return await asyncio.start_unix_server(connected, path)
        finally:
            os.umask(before)
    except OSError as exc:
        hint = f"{ENVIRON} names another folder"
        raise ConfigError(f"cannot listen at {path}: {exc.strerror or exc}", hint=hint) from exc


class LocalStream(anyio.abc.ByteStream):
    """A connection of an asyncio server. anyio's own streams over Unix sockets do not survive a cancellation that comes
    together with data (a future is resolved twice)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self._reader.read(max_bytes)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        if self._writer.is_closing():
            raise anyio.BrokenResourceError
        try:
            self._writer.write(item)
            await self._writer.drain()
        except OSError as exc:
            raise anyio.BrokenResourceError from exc

    async def send_eof(self) -> None:
        with suppress(OSError):
            self._writer.write_eof()

    async def aclose(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def _prepare(path: Path, port: int) -> None:
    """Make the folder; remove a socket that a program left behind when it died."""
    if not hasattr(socket, "AF_UNIX") or os.name == "nt":
        raise ConfigError("this system has no Unix sockets: listen on a TCP port of 127.0.0.1 instead")
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"the path {path} is too long for a Unix socket", hint=f"set {ENVIRON} to a shorter folder")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"cannot make the folder {path.parent}: {exc.strerror}", hint=f"set {ENVIRON}") from exc
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:  # refused: its program is gone
            path.unlink(missing_ok=True)
            return
    raise ConfigError(f"port {port} is served by another program already", hint="choose another port")

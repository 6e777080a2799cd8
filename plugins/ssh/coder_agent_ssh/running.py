"""A command in a workspace, with streams: what `Workspace.start` yields (coder_agent.hooks.commands.RunningCommand)."""

from __future__ import annotations

import signal
from contextlib import suppress

import anyio
import asyncssh
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, TaskGroup

from coder_agent.errors import TransportBroken
from coder_agent.hooks.commands import CommandRequest

from .connecting import connected
from .joining import join, named, socket_pair

BROKEN = (OSError, asyncssh.Error)
"""What asyncssh raises when a connection or a channel is gone."""


async def running(stream: ByteStream, request: CommandRequest, tasks: TaskGroup) -> SshCommand:
    """Start `request` over `stream`. Raises TransportBroken."""
    ours, theirs = socket_pair()
    joined = anyio.Event()
    carrying = anyio.CancelScope(shield=True)  # a cancelled caller still says goodbye: `aclose` ends it

    async def carry() -> None:
        try:
            with carrying:
                await join(stream, ours)
        finally:
            joined.set()

    sock = named(theirs, ("::1", 0), ("::1", 1))
    tasks.start_soon(carry)
    try:
        connection = await connected(sock, request.label)
    except BaseException:
        sock.close()
        carrying.cancel()
        raise
    try:
        process = await connection.create_process(request.command, encoding=None, env=dict(request.environment))
    except BaseException as exc:
        connection.abort()
        carrying.cancel()
        if isinstance(exc, BROKEN):
            raise TransportBroken(f"workspace {request.label} refuses to run a command: {exc}") from exc
        raise
    return SshCommand(connection, process, (carrying, joined), request.label)


class SshCommand:
    """A command and the connection that is its own."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        process: asyncssh.SSHClientProcess[bytes],
        carried: tuple[anyio.CancelScope, anyio.Event],
        label: str,
    ) -> None:
        self._connection, self._process, self._label = connection, process, label
        self._carrying, self._joined = carried
        self.stdin: ByteSendStream = _Input(process.stdin)
        self.stdout: ByteReceiveStream = _Output(process.stdout)
        self.stderr: ByteReceiveStream = _Output(process.stderr)

    @property
    def returncode(self) -> int | None:
        """As subprocess says it; a signal without a number here is -1."""
        killed = self._process.exit_signal
        if killed is not None:
            number = getattr(signal, f"SIG{killed[0]}", None)
            return -int(number) if number is not None else -1
        return self._process.exit_status

    async def wait(self) -> int:
        """Until the command has ended and all it said was read, or fits into the window."""
        await self._process.channel.wait_closed()
        code = self.returncode
        if code is None:
            raise TransportBroken(f"workspace {self._label}: the connection ended before the command did")
        return code

    def send_signal(self, name: str) -> None:
        """Such as INT, TERM, KILL."""
        if self.returncode is None:
            with suppress(*BROKEN):
                self._process.send_signal(name)

    async def aclose(self) -> None:
        """KILL it if it runs, then say goodbye."""
        try:
            self.send_signal("KILL")
            self._connection.close()
            await self._connection.wait_closed()
            await self._joined.wait()
        finally:
            self._carrying.cancel()


class _Input(ByteSendStream):
    def __init__(self, writer: asyncssh.SSHWriter[bytes]) -> None:
        self._writer = writer

    async def send(self, item: bytes) -> None:
        if self._writer.is_closing():
            raise anyio.ClosedResourceError
        try:
            self._writer.write(item)
            await self._writer.drain()
        except BROKEN as exc:
            raise anyio.BrokenResourceError from exc

    async def aclose(self) -> None:
        if not self._writer.is_closing():
            with suppress(*BROKEN):
                self._writer.write_eof()
        await anyio.lowlevel.checkpoint()


class _Output(ByteReceiveStream):
    def __init__(self, reader: asyncssh.SSHReader[bytes]) -> None:
        self._reader = reader

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self._reader.read(max_bytes)
        except BROKEN as exc:
            raise anyio.BrokenResourceError from exc
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """What still comes is thrown away when the command is closed."""
        await anyio.lowlevel.checkpoint()

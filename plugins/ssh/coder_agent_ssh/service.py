"""The agent's SSH server, as the agent sees it: two ports, and a process of its own behind them.

asyncssh, users' sessions and what they copy live in `worker`, a child process: it is started when the first user comes
and ends a minute after the last one left. So an agent that nobody uses stays small, a busy session does not slow the
tunnel's loop down, and whatever goes wrong in SSH ends there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from coder_agent.hooks import AgentFacts, AgentService

from .joining import join, send_all, socket_pair
from .request import Request
from .settings import SshSettings

log = logging.getLogger(__name__)

PORTS = (1, 22)
"""1 is what `coder ssh` dials, 22 what other SSH clients do (coder tailnet/conn.go)."""
IDLE = 60.0
"""Seconds without a connection after which the process ends. Starting it takes a quarter of a second."""
STOP = 4.0
"""Seconds for the process to end its sessions when the agent stops; then it is killed."""
MAX_CONNECTIONS = 256
"""At once. An editor with multiplexing needs one, without it a handful."""


class Gate:
    """Hands connections to the worker, and keeps it as long as it is needed."""

    def __init__(self, settings: SshSettings) -> None:
        self._settings = settings
        self._facts: Callable[[], AgentFacts] | None = None
        self._control: socket.socket | None = None
        self._process: anyio.abc.Process | None = None
        self._starting = anyio.Lock()
        self._connections = 0
        self._idle: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def open(self, facts: Callable[[], AgentFacts]) -> AsyncIterator[None]:
        """While entered, connections are served."""
        self._facts = facts
        try:
            yield
        finally:
            self._facts = None
            with anyio.CancelScope(shield=True):
                await self._stop()

    async def serve(self, port: int, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection."""
        if self._facts is None or self._connections >= MAX_CONNECTIONS:
            log.warning("an SSH connection was refused: there are %d already", self._connections)
            return
        self._connections += 1
        if self._idle is not None:
            self._idle.cancel()
        try:
            request = Request.of(
                self._facts(), self._settings, _address(stream, "local", port), _address(stream, "remote")
            )
            ours, theirs = socket_pair()
            try:
                with theirs:
                    await self._hand_over(theirs)
                head = request.encode()
                await send_all(ours, [struct.pack(">I", len(head)), head])
            except OSError as exc:
                ours.close()
                log.error("SSH is not available: %s", exc)
                return
            await join(stream, ours)
        finally:
            self._connections -= 1
            if not self._connections:
                self._idle = asyncio.get_running_loop().call_later(IDLE, self._let_go)

    # ------------------------------------------------------------ the process

    async def _hand_over(self, sock: socket.socket) -> None:
        """Give the worker a connection; a worker that died is replaced once. Raises OSError."""
        async with self._starting:
            for attempt in (1, 2):
                if self._control is None:
                    await self._start()
                assert self._control is not None
                try:
                    socket.send_fds(self._control, [b"+"], [sock.fileno()])
                    return
                except OSError:
                    if attempt == 2:
                        raise
                    await self._stop()

    async def _start(self) -> None:
        await self._stop()  # a predecessor that was let go
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            command = [sys.executable, "-P", "-m", "coder_agent_ssh.worker", str(theirs.fileno())]
            try:
                self._process = await anyio.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=None,
                    stderr=None,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the agent, which ends the worker in order
                )
            except BaseException:
                ours.close()
                raise
        self._control = ours

    def _let_go(self) -> None:
        """End a worker that nobody has used for a while."""
        if not self._connections and self._control is not None:
            self._control.close()
            self._control = None

    async def _stop(self) -> None:
        """Closing the control socket tells the worker to end its sessions and itself."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if self._control is not None:
            self._control.close()
            self._control = None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(STOP):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()


class SshService:
    """SSH on one port of the tunnel; the one on the first port keeps the gate open."""

    def __init__(self, port: int, gate: Gate) -> None:
        self.name = f"ssh-{port}"
        self.port = port
        self._gate = gate

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection."""
        await self._gate.serve(self.port, stream)


class FirstSshService(SshService):
    """The one of `services` that lives as long as the agent."""

    def __init__(self, port: int, gate: Gate) -> None:
        super().__init__(port, gate)
        self.open = gate.open


def services(settings: SshSettings) -> Sequence[AgentService]:
    """One server on both ports, unless it is switched off or this system cannot pass sockets to a child."""
    if not settings.enabled:
        return []
    if not hasattr(socket, "send_fds"):
        log.warning("SSH is not served: this system has no UNIX sockets")
        return []
    gate = Gate(settings)
    first, *others = PORTS
    return [FirstSshService(first, gate), *(SshService(port, gate) for port in others)]


def _address(stream: anyio.abc.ByteStream, side: str, port: int = 0) -> tuple[str, int]:
    """The stream's address in the tunnel, as far as it knows it."""
    connection = getattr(stream, "connection", None)
    found = getattr(connection, side, None)
    return (str(found[0]), int(found[1])) if found is not None else ("::1", port)

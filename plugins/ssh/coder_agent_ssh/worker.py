"""The process behind the agent's SSH ports: ``python -m coder_agent_ssh.worker FD``.

On the control socket FD the agent passes a socket for each connection; on that, it sends a Request (4 bytes of length,
JSON), and then comes the SSH stream. When the control socket ends, because the agent closed it or died, every session
is ended and so is this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

import asyncssh

from . import processes
from .joining import named
from .request import MAX_BYTES, Request
from .server import Service, peek_version, serve
from .session import Session

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 10.0
VERSION_PATIENCE = 0.5
"""Seconds for a client to speak first. All but a few do at once; those few are served without."""


class Worker:
    """All connections of an agent."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the agent is gone."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._control, self._accept, ended)
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        loop.remove_reader(self._control)
        await self._end_sessions()

    def _accept(self, ended: asyncio.Event) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            ended.set()
            return
        for descriptor in descriptors:
            task = asyncio.get_running_loop().create_task(self._serve(socket.socket(fileno=descriptor)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            request = Request.decode(await asyncio.wait_for(_head(sock), HEAD_TIMEOUT))
            version = await peek_version(sock, VERSION_PATIENCE)
            service = Service.of(request, self._sessions)
            connection = await serve(named(sock, request.local, request.peer), service, version)
        except (OSError, EOFError, TimeoutError, ValueError, TypeError, KeyError, asyncssh.Error) as exc:
            log.info("no SSH connection: %s", exc)
            sock.close()
            return
        await connection.wait_closed()

    async def _end_sessions(self) -> None:
        sessions = list(self._sessions)
        for task in self._tasks:
            task.cancel()
        for session in sessions:
            session.hang_up()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(session.gone.wait() for session in sessions)), processes.GRACE)
        for session in sessions:
            session.kill()


async def _head(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()

    async def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await loop.sock_recv(sock, count - len(data))
            if not more:
                raise EOFError("the agent closed the connection")
            data += more
        return data

    (size,) = struct.unpack(">I", await exactly(4))
    if size > MAX_BYTES:
        raise ValueError(f"a request of {size} bytes")
    return await exactly(size)


def main() -> None:
    """Take the control socket and serve."""
    logging.basicConfig(level=logging.WARNING, format="ssh: %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(False)
    os.set_inheritable(control.fileno(), False)
    with suppress(OSError):
        os.chdir(os.environ.get("HOME") or os.path.expanduser("~"))  # sftp begins here
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        # Ours to ignore, not our children's: an ignored signal is inherited (the agent may run under nohup), a handled
        # one is back at its default in a new program.
        signal.signal(number, lambda *_: None)
    asyncio.run(Worker(control).run())


if __name__ == "__main__":
    main()

"""``--reverse`` on the user's side: fetch connections that the agent announces, and join them to the user's own port.

Nothing but the port on the command line is ever connected to: the workspace can only knock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable

import anyio
import anyio.abc

from coder_agent.client import Workspace
from coder_agent.errors import CoderAgentError, ConfigError
from coder_agent.node import TunnelStream

from .ask import NoService, ask
from .books import Book
from .carried import Carried
from .lines import read_line
from .protocol import Op, Refusal, Request
from .target import Target

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.5, 5.0
"""Seconds between two tries to listen again after the agent was lost."""
DIAL_TIMEOUT = 5.0
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class ReverseForward:
    """One port of the workspace that leads to one of the user's. `run` serves until cancelled."""

    def __init__(self, target: Target, book: Book, workspace: Workspace, say: Callable[[str], None]) -> None:
        self.book = book
        self._target = target
        self._workspace = workspace
        self._say = say
        self._carried = Carried()

    def tick(self, now: float) -> None:
        """Bring the book up to date."""
        self._carried.tick(self.book, now)

    def reset(self, why: str) -> None:
        """Reset all connections; new ones are welcome."""
        self._carried.reset(why)

    def close(self) -> None:
        """Reset all connections. The agent stops listening when `run` was cancelled."""
        self.reset("stopped")

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Have the agent listen, and again whenever that ends. Raises ConfigError if it refuses the first time."""
        port, first, delay = self.book.forward.remote, True, RETRY_FIRST
        while True:
            try:
                control, _ = await ask(self._workspace, Request(Op.LISTEN, port=port))
            except (Refusal, NoService) as error:
                if first:
                    hint = error.hint if isinstance(error, NoService) else None
                    raise ConfigError(f"--reverse {port}: {error}", hint=hint) from error
                self._target.failed(self.book, str(error))
            except CoderAgentError as error:
                if first:
                    raise
                self._target.failed(self.book, str(error))
            else:
                if first:
                    task_status.started()
                else:
                    self._say(f"{self.book.forward.remote_url} in the workspace is listened on again")
                first, delay = False, RETRY_FIRST
                await self._listen(control)
            await anyio.sleep(delay)
            delay = min(delay * 2, RETRY_MOST)

    async def _listen(self, control: TunnelStream) -> None:
        """Fetch what is announced, until the agent is gone."""
        async with anyio.create_task_group() as tasks:
            try:
                while True:
                    number = json.loads(await read_line(control))["id"]
                    if self._target.gate.enter():
                        tasks.start_soon(self._fetch, str(number))
                    else:
                        limit = self._target.gate.limit
                        self._target.refused(self.book, f"more than {limit} connections at once")
                        tasks.start_soon(self._refuse, str(number))
            except (
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                CoderAgentError,
                ValueError,
                KeyError,
                TypeError,
            ) as e:
                log.debug("no longer listened for: %r", e)
                self._target.failed(self.book, "the agent went away")
            finally:
                control.abort()

    async def _fetch(self, number: str) -> None:
        self.book.active += 1
        self.book.opened += 1
        try:
            sock = await self._dial()
            if sock is None:
                self._target.failed(self.book, f"nothing listens on port {self.book.forward.local} of this machine")
                await self._refuse(number)
                return
            try:
                stream, _ = await ask(self._workspace, Request(Op.ACCEPT, id=number))
            except BaseException:
                sock.close()
                raise
            await self._join(stream, sock)
        except (Refusal, CoderAgentError) as error:
            self._target.failed(self.book, str(error))
        finally:
            self.book.active -= 1
            self._target.gate.leave()

    async def _join(self, stream: TunnelStream, sock: socket.socket) -> None:
        await self._carried.wait(stream.splice(sock))

    async def _refuse(self, number: str) -> None:
        try:
            stream, _ = await ask(self._workspace, Request(Op.REFUSE, id=number))
            await stream.aclose()
        except (Refusal, CoderAgentError) as error:  # it resets the connection by itself in a moment
            log.debug("not refused: %s", error)

    async def _dial(self) -> socket.socket | None:
        loop = asyncio.get_running_loop()
        for family, host in _LOOPBACKS:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with anyio.fail_after(DIAL_TIMEOUT):
                    await loop.sock_connect(sock, (host, self.book.forward.local))
                return sock
            except (OSError, TimeoutError):
                sock.close()
            except BaseException:
                sock.close()
                raise
        return None

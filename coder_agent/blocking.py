"""The client for scripts and notebooks: the same calls, blocking.

    with coder_agent.blocking.connect("dev") as workspace:
        print(workspace.run("uname -a").text)
        with workspace.open_tcp(8080) as stream:
            stream.send(b"GET / HTTP/1.0\r\n\r\n")
            print(stream.receive())

An event loop runs in a thread of its own for as long as the workspace is open, so timers, keepalives and path changes
go on while the script computes. It works where a loop runs already, as in a notebook.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, overload

import anyio.from_thread

from . import api, client
from .blocking_streams import (
    BlockingCommand,
    BlockingDatagrams,
    BlockingEvents,
    BlockingInput,
    BlockingOutput,
    BlockingStream,
    E,
    Loop,
)
from .forwarding import Forward
from .forwarding_udp import UdpForward
from .hooks.events import Event, EventSink
from .magicsock.core import PathStatus
from .node import DIAL_TIMEOUT, Pong
from .observing import MAX_WAITING
from .remote_commands import MAX_OUTPUT, Completed
from .verdict.situation import Verdict

if TYPE_CHECKING:
    import ssl

    import httpx2

__all__ = [
    "connect",
    "BlockingWorkspace",
    "BlockingStream",
    "BlockingDatagrams",
    "BlockingCommand",
    "BlockingInput",
    "BlockingOutput",
    "BlockingEvents",
]


class BlockingWorkspace:
    """A workspace for blocking code. Close it, or use it with ``with``; at the end of the program it is closed."""

    def __init__(self, loop: Loop, workspace: client.Workspace, exits: ExitStack) -> None:
        self._loop, self._workspace, self._exits = loop, workspace, exits
        atexit.register(self.close)

    def open_tcp(self, port: int, *, timeout: float = DIAL_TIMEOUT) -> BlockingStream:
        """As `Workspace.open_tcp`."""

        async def call() -> Any:
            return await self._workspace.open_tcp(port, timeout=timeout)

        return BlockingStream(self._loop, self._loop.call(call))

    def open_udp(self, port: int) -> BlockingDatagrams:
        """As `Workspace.open_udp`."""
        return BlockingDatagrams(self._loop, self._loop.call(self._workspace.open_udp, port))

    def http(
        self, port: int, *, tls: bool = False, verify: ssl.SSLContext | bool = False, **options: Any
    ) -> httpx2.Client:
        """As `Workspace.http`, with httpx2's blocking client."""
        dial = self._workspace.dial_port
        made: httpx2.Client = client.load_http().blocking_client(
            self._loop, dial, port, tls=tls, verify=verify, options=options
        )
        return made

    @contextmanager
    def forward(
        self, port: int, *, local_port: int = 0, host: str = "127.0.0.1", udp: bool = False
    ) -> Iterator[Forward | UdpForward]:
        """As `Workspace.forward`."""
        opened = self._workspace.forward(port, local_port=local_port, host=host, udp=udp)
        with self._loop.portal.wrap_async_context_manager(opened) as forward:
            yield forward

    @contextmanager
    def start(
        self, command: str | Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[BlockingCommand]:
        """As `Workspace.start`."""
        with self._loop.portal.wrap_async_context_manager(self._workspace.start(command, env=env, cwd=cwd)) as running:
            yield BlockingCommand(self._loop, running)

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str = b"",
        check: bool = False,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> Completed:
        """As `Workspace.run`."""

        async def call() -> Completed:
            return await self._workspace.run(
                command, input=input, check=check, timeout=timeout, env=env, cwd=cwd, max_output=max_output
            )

        return self._loop.call(call)

    def ping(self, *, timeout: float = 5.0) -> Pong:
        """As `Workspace.ping`."""

        async def call() -> Pong:
            return await self._workspace.ping(timeout=timeout)

        return self._loop.call(call)

    def path(self) -> PathStatus:
        """As `Workspace.path`."""
        return self._loop.portal.call(self._workspace.path)

    def explain(self) -> Verdict:
        """As `Workspace.explain_after_asking`."""
        return self._loop.call(self._workspace.explain_after_asking)

    def wait_direct(self, *, timeout: float | None = None) -> PathStatus:
        """As `Workspace.wait_direct`. Raises TimeoutError as well."""
        return self._loop.call(self._workspace.wait_direct, timeout=timeout)

    @overload
    def events(self, *, limit: int = MAX_WAITING) -> BlockingEvents[Event]: ...
    @overload
    def events(self, *kinds: type[E], limit: int = MAX_WAITING) -> BlockingEvents[E]: ...
    def events(self, *kinds: type[Any], limit: int = MAX_WAITING) -> BlockingEvents[Any]:
        """As `Workspace.events`, for ``for``."""

        async def call() -> Any:
            return self._workspace.events(*kinds, limit=limit)

        return BlockingEvents(self._loop, self._loop.call(call))

    def on_event(self, callback: EventSink) -> Callable[[], None]:
        """As `Workspace.on_event`: `callback` is called on the loop's thread, must not block and must not call us."""
        return self._loop.portal.call(self._workspace.on_event, callback)

    def close(self) -> None:
        """Leave the workspace. A second time does nothing."""
        self.__exit__(None, None, None)

    def __enter__(self) -> BlockingWorkspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        atexit.unregister(self.close)
        self._loop.closed = True
        self._exits.pop_all().__exit__(kind, error, trace)


def connect(workspace: str, **options: Unpack[api.ConnectOptions]) -> BlockingWorkspace:
    """As `coder_agent.connect`, with the same keyword options. Returns when the workspace has answered."""
    with ExitStack() as exits:
        portal = exits.enter_context(anyio.from_thread.start_blocking_portal("asyncio"))
        opened = exits.enter_context(portal.wrap_async_context_manager(api.connect(workspace, **options)))
        return BlockingWorkspace(Loop(portal), opened, exits.pop_all())

"""One run of `coder port-forward`: everything that was asked for, until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from socket import socket
from typing import Protocol

import anyio
import anyio.abc

from coder_agent.base.paths import PathKind
from coder_agent.cli.durations import format_latency
from coder_agent.client import ClientConfig, Workspace, open_workspace
from coder_agent.errors import CoderAgentError
from coder_agent.watching import Watch
from coder_agent.workspace_name import WorkspaceName

from .books import Book
from .display import Display
from .gate import Gate
from .grammar import Forward
from .grammar import Protocol as Kind
from .listening import open_listeners
from .proxy import ProxyForward
from .reverse import ReverseForward
from .target import Target
from .tcp import TcpForward
from .udp import UdpForward

log = logging.getLogger(__name__)

USAGE_INTERVAL = 60.0
"""Seconds between two reports that the workspace is used (coder cli/portforward.go)."""
USAGE_TIMEOUT = 5.0
TICK = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    forwards: tuple[Forward, ...] = ()
    reverse: tuple[Forward, ...] = ()
    socks: Forward | None = None
    max_connections: int = 2000


class Running(Protocol):
    """A forward of any kind."""

    book: Book

    def tick(self, now: float) -> None: ...
    def reset(self, why: str) -> None: ...
    def close(self) -> None: ...


class Session:
    """Listens first, so that a busy port is said at once; then connects, and serves until `stop` is set."""

    def __init__(self, config: ClientConfig, name: WorkspaceName, wanted: Wanted, display: Display) -> None:
        self._config = config
        self._name = name
        self._wanted = wanted
        self._display = display
        self._running: list[Running] = []

    async def run(self, stop: anyio.Event) -> None:
        """Raises ConfigError (port busy), ApiError, PeerUnreachable, CoordinationError."""
        async with AsyncExitStack() as exits:
            listeners = []
            for forward in self._listened():
                sockets = open_listeners(forward)
                listeners.append((forward, sockets))
                for sock in sockets:
                    exits.callback(sock.close)
            workspace = await exits.enter_async_context(open_workspace(self._config, self._name))
            async with anyio.create_task_group() as tasks:
                exits.callback(self._display.close)
                await self._start(workspace, listeners, tasks)
                self._display.say("ready", "Ready!")
                tasks.start_soon(self._tick, workspace)
                tasks.start_soon(self._report_usage, workspace)
                tasks.start_soon(self._watch(workspace).run)
                try:
                    await stop.wait()
                finally:
                    for running in self._running:
                        running.close()
                    tasks.cancel_scope.cancel()
            self._display.close()
            self._display.say("stopped", "Closing all port forwards")
            await _report_once(workspace)

    def _listened(self) -> list[Forward]:
        socks = [self._wanted.socks] if self._wanted.socks is not None else []
        return [*self._wanted.forwards, *socks]

    async def _start(
        self, workspace: Workspace, listeners: list[tuple[Forward, list[socket]]], tasks: anyio.abc.TaskGroup
    ) -> None:
        target = Target(workspace.node, workspace.address, Gate(self._wanted.max_connections), self._display.trouble)
        for forward, sockets in listeners:
            book = Book(forward)
            running: Running
            if forward is self._wanted.socks:
                book.kind = "proxy"
                running = proxy = ProxyForward(target, book, sockets, workspace)
                tasks.start_soon(proxy.run)
            elif forward.protocol is Kind.TCP:
                running = TcpForward(target, book, sockets)
            else:
                running = UdpForward(target, book, sockets)
            self._running.append(running)
            self._display.listening(book)
        say: Callable[[str], None] = lambda text: self._display.say("restored", text)  # noqa: E731
        for forward in self._wanted.reverse:
            reverse = ReverseForward(target, Book(forward, "reverse"), workspace, say)
            await tasks.start(reverse.run)
            self._running.append(reverse)
            self._display.listening(reverse.book)

    def _watch(self, workspace: Workspace) -> Watch:
        label = workspace.agent.label

        def lost(why: str) -> None:
            self._display.say(
                "lost", f"Workspace {label} is gone: {why}. Open connections were reset; waiting for it..."
            )
            for running in self._running:
                running.reset(why)

        def restored() -> None:
            self._display.say("restored", f"Workspace {label} answers again; forwards work as before")

        return Watch(workspace, busy=self._is_busy, lost=lost, restored=restored)

    def _is_busy(self) -> bool:
        return any(running.book.active for running in self._running)

    async def _tick(self, workspace: Workspace) -> None:
        while True:
            now = workspace.node.engine.now()
            for running in self._running:
                running.tick(now)
            self._display.tick([running.book for running in self._running], path_line(workspace))
            await anyio.sleep(TICK)

    async def _report_usage(self, workspace: Workspace) -> None:
        while True:
            await _report_once(workspace)
            await anyio.sleep(USAGE_INTERVAL)


async def _report_once(workspace: Workspace) -> None:
    """Tell the server; that it cannot be told is no reason to stop."""
    try:
        with anyio.fail_after(USAGE_TIMEOUT):
            await workspace.report_usage()
    except (CoderAgentError, TimeoutError) as error:
        log.debug("usage not reported: %s", error)


def path_line(workspace: Workspace) -> str:
    """What carries everything now, in a few words."""
    try:
        status = workspace.path()
    except CoderAgentError:
        return "no path: the agent is not connected"
    latency = f", {format_latency(status.latency)}" if status.latency is not None else ""
    if status.kind is PathKind.DIRECT:
        return f"direct ({status.addr}){latency}"
    if status.kind is PathKind.RELAYED:
        return f"relayed by {workspace.region_name(status.region)}{latency}"
    return "no path yet"

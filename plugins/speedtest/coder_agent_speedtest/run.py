"""One run of `coder speedtest`: the streams of a test, their rows, and what limited it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from coder_agent.base.paths import PathKind
from coder_agent.cli.durations import format_latency
from coder_agent.cli.output import note
from coder_agent.client import Workspace, agent_unreachable
from coder_agent.errors import CoderAgentError, PeerUnreachable, TransportBroken

from . import PORT
from .bottleneck import Bottleneck, Figures, Used, find
from .protocol import Direction, Interval, Meter, Request
from .transfer import Ledger, ask, run_test

DIRECT_PATIENCE = 30.0
"""Seconds that --direct waits: six rounds of pings (5 s apart), so more waiting would not help. The stock command waits
for ever."""
AGENT_CHECK = 5.0
"""Seconds between questions to the server whether the agent is still there, while a test runs."""
FIGURES_TIMEOUT = 5.0
"""Seconds for the workspace's last figures: a test does not fail for want of them."""

Report = Callable[[Direction, Interval], None]


@dataclass(slots=True)
class Measured:
    """One direction: its rows and its total, of all streams together."""

    direction: Direction
    rows: list[Interval] = field(default_factory=list)
    total: Interval = field(default_factory=lambda: Interval(0, 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Result:
    """A whole test. `path`: ``direct``, or the code of the relay region that carried it."""

    measured: Sequence[Measured]
    path: str
    bottleneck: Bottleneck


class Counter:
    """Joins the bytes of several streams into one row a second."""

    def __init__(self, direction: Direction, report: Report) -> None:
        self.measured = Measured(direction)
        self._report = report
        self._meter: Meter | None = None

    def add(self, size: int) -> None:
        """`size` bytes have moved just now; the first call starts the clock."""
        now = time.monotonic()
        if self._meter is None:
            self._meter = Meter(now)
        if interval := self._meter.add(size, now):
            self._row(interval)

    def finish(self) -> Measured:
        """All streams are done."""
        if self._meter is not None:
            if tail := self._meter.finish():
                self._row(tail)
            self.measured.total = self._meter.total()
        return self.measured

    def _row(self, interval: Interval) -> None:
        self.measured.rows.append(interval)
        self._report(self.measured.direction, interval)


class Test:
    """Directions, each with `parallel` streams for `seconds`, over one workspace."""

    def __init__(
        self, workspace: Workspace, directions: Sequence[Direction], seconds: float, parallel: int, report: Report
    ) -> None:
        self._workspace = workspace
        self._requests = [Request(direction, seconds) for direction in directions]
        self._parallel = parallel
        self._counters = [Counter(direction, report) for direction in directions]
        self._ledger = Ledger()
        self._told: Figures | None = None

    async def run(self, path: str) -> Result:
        """Raises PeerUnreachable or TransportBroken, naming the workspace if it died in the middle."""
        before = self._ledger.figures()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_agent, self._workspace)
            async with anyio.create_task_group() as streams:
                for request, counter in zip(self._requests, self._counters, strict=True):
                    for _ in range(self._parallel):
                        streams.start_soon(self._stream, request, counter)
            tasks.cancel_scope.cancel()
        measured = [counter.finish() for counter in self._counters]
        here = Used.between(before, self._ledger.figures())
        there = Used.between(self._told, await self._ask_again() if self._told else None)
        return Result(measured, path, self._find(here, there, "" if path == "direct" else path))

    async def _stream(self, request: Request, counter: Counter) -> None:
        workspace = self._workspace
        try:
            stream = await workspace.open_tcp(PORT)
            async with stream:
                figures = await run_test(stream, request, counter.add, self._ledger)
        except TimeoutError as exc:
            raise await _gone(workspace, "nothing arrives any more") from exc
        except anyio.BrokenResourceError as exc:
            raise await _gone(workspace, str(exc.__cause__ or "the connection broke")) from exc
        if self._told is None:
            self._told = figures

    async def _ask_again(self) -> Figures | None:
        """The workspace's figures after the test, by a test that is over at once."""
        try:
            with anyio.fail_after(FIGURES_TIMEOUT):
                async with await self._workspace.open_tcp(PORT) as stream:
                    figures, _ = await ask(stream, Request(Direction.UPLOAD, 1e-3))
                    return figures
        except (CoderAgentError, TimeoutError, anyio.BrokenResourceError):
            return None

    def _find(self, here: Used, there: Used, relay: str) -> Bottleneck:
        """In the direction that moved more, if there are two."""
        most = max(self._counters, key=lambda counter: counter.measured.total.size).measured.direction
        workspace = "the workspace"
        if most is Direction.DOWNLOAD:
            return find(there, here, (workspace, "this machine"), relay)
        return find(here, there, ("this machine", workspace), relay)


async def path_label(workspace: Workspace) -> tuple[float, str]:
    """Latency in seconds, and what carries the test: ``direct`` or the code of a relay region."""
    pong = await workspace.ping()
    status = workspace.path()
    return pong.latency, "direct" if status.kind is PathKind.DIRECT else workspace.region_code(status.region)


async def wait_direct(workspace: Workspace) -> None:
    """Ping every second until the path is direct, telling the user what it is meanwhile. Raises PeerUnreachable."""
    label = workspace.agent.label
    if not workspace.node.config.direct:
        raise PeerUnreachable(
            f"workspace {label}: this deployment does not allow direct connections", hint="leave --direct out"
        )
    end = anyio.current_time() + DIRECT_PATIENCE
    while True:
        with anyio.move_on_after(1.0):
            await workspace.wait_direct()
            return
        if anyio.current_time() > end:
            raise PeerUnreachable(
                f"workspace {label}: no direct path within {DIRECT_PATIENCE:g} s",
                hint="`coder ping` says which addresses were tried; without --direct the test runs through the relay",
            )
        try:
            pong = await workspace.ping(timeout=1.0)
        except PeerUnreachable:
            note("Waiting for a direct connection... (no answer)")
            continue
        region = workspace.region_code(workspace.path().region)
        note(f"Waiting for a direct connection... ({format_latency(pong.latency)} via {region})")


async def _gone(workspace: Workspace, reason: str) -> PeerUnreachable | TransportBroken:
    agent = await workspace.refresh_agent()
    if agent.status != "connected":
        return agent_unreachable(agent)
    return TransportBroken(f"workspace {agent.label}: {reason}", hint="`coder ping` shows the path")


async def _watch_agent(workspace: Workspace) -> None:
    """Raise as soon as the server says that the agent is gone. The server itself being away is no reason."""
    while True:
        await anyio.sleep(AGENT_CHECK)
        try:
            agent = await workspace.refresh_agent()
        except CoderAgentError:  # the server restarts: the test goes on without it
            continue
        if agent.status != "connected":
            raise agent_unreachable(agent)

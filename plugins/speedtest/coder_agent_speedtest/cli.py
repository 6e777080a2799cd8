"""`coder speedtest`: parse, run one test, print rows as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import anyio
import typer

from coder_agent.api import client_config
from coder_agent.base.paths import PathKind
from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.durations import format_latency, parse_duration
from coder_agent.cli.output import Output, OutputOption, note, print_json
from coder_agent.client import ClientConfig, Workspace, agent_unreachable, open_workspace
from coder_agent.errors import CoderAgentError, ConfigError, PeerUnreachable, TransportBroken
from coder_agent.workspace_name import WorkspaceName

from .pcap import PcapWriter
from .protocol import Direction, Interval, Request
from .service import PORT
from .transfer import run_test

DIRECT_PATIENCE = 30.0
"""Seconds that --direct waits: six rounds of pings (5 s apart), so more waiting would not help. The stock command waits
for ever."""
AGENT_CHECK = 5.0
"""Seconds between questions to the server whether the agent is still there, while a test runs."""
TITLE = ("INTERVAL", "TRANSFER", "BANDWIDTH")
RULE = "-" * 54


class Way(StrEnum):
    """``--direction``: which way the bytes go, as the stock command names it."""

    DOWN = "down"
    UP = "up"


def speedtest(
    ctx: typer.Context,
    workspace: WorkspaceArgument,
    direct: Annotated[bool, typer.Option("--direct", "-d", help="wait for a direct path first")] = False,
    direction: Annotated[Way, typer.Option(help="down: the workspace sends")] = Way.DOWN,
    duration: Annotated[str, typer.Option("--time", "-t", help="5s, 1m30s …")] = "5s",
    pcap_file: Annotated[Path | None, typer.Option(help="capture the tunnel's packets here")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure the speed between this machine and a workspace, and say what carries it.

    "via direct" is an end-to-end path; "via CODE" is the relay region that carries the test.
    """
    cli: Cli = ctx.obj
    if direct and cli.settings.client.disable_direct_connections:
        raise ConfigError(
            "--direct and --disable-direct-connections contradict each other", hint="leave one of the two out"
        )
    way = Direction.DOWNLOAD if direction is Way.DOWN else Direction.UPLOAD
    request = Request(way, parse_duration(duration))
    test = _Test(client_config(cli, say=note), WorkspaceName.parse(workspace), request, direct, pcap_file)
    report = _print_row if output is Output.TABLE else None
    total, rows = anyio.run(test.run, report)
    if output is Output.TABLE:
        print(RULE)
        _print_interval(total)
    else:
        print_json(document(total, rows, test.path_label))


def document(total: Interval, rows: list[Interval], path: str) -> dict[str, object]:
    """The JSON result: the stock command's keys, and what carried the test."""
    return {"overall": _json(total), "intervals": [_json(row) for row in rows], "path": path}


def _json(interval: Interval) -> dict[str, float]:
    return {
        "start_time_seconds": interval.start,
        "end_time_seconds": interval.end,
        "throughput_mbits": interval.megabits_per_second,
    }


class _Test:
    """One run of the command."""

    def __init__(
        self, config: ClientConfig, name: WorkspaceName, request: Request, direct: bool, pcap: Path | None
    ) -> None:
        self._config = config
        self._name = name
        self._request = request
        self._direct = direct
        self._pcap = pcap
        self.path_label = ""

    async def run(self, report: Callable[[Interval], None] | None) -> tuple[Interval, list[Interval]]:
        """Connect, test; returns the total and all rows."""
        rows: list[Interval] = []

        def collect(interval: Interval) -> None:
            rows.append(interval)
            if report is not None:
                report(interval)

        with ExitStack() as exits:
            tap = self._open_pcap(exits)
            async with open_workspace(self._config, self._name) as workspace:
                if tap is not None:
                    workspace.node.set_tap(tap)
                if self._direct:
                    await _wait_direct(workspace)
                await self._print_path(workspace)
                note(f"Starting a {self._request.seconds:g}s {self._request.direction} test...")
                total = await self._measure(workspace, collect)
        return total, rows

    async def _measure(self, workspace: Workspace, report: Callable[[Interval], None]) -> Interval:
        """Run the test; a workspace that dies in the middle is named, not just a stream that broke."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_agent, workspace)
            try:
                stream = await workspace.open_tcp(PORT)
                async with stream:
                    total = await run_test(stream, self._request, report)
            except TimeoutError as exc:
                raise await _gone(workspace, "nothing arrives any more") from exc
            except anyio.BrokenResourceError as exc:
                raise await _gone(workspace, str(exc.__cause__ or "the connection broke")) from exc
            tasks.cancel_scope.cancel()
        return total

    async def _print_path(self, workspace: Workspace) -> None:
        pong = await workspace.ping()
        status = workspace.path()
        self.path_label = "direct" if status.kind is PathKind.DIRECT else workspace.region_code(status.region)
        note(f"{format_latency(pong.latency)} via {self.path_label}")

    def _open_pcap(self, exits: ExitStack) -> Callable[[str, bytes], None] | None:
        if self._pcap is None:
            return None
        try:
            file = exits.enter_context(self._pcap.open("wb"))
        except OSError as exc:
            raise ConfigError(f"cannot write {self._pcap}: {exc.strerror}", hint="choose another --pcap-file") from exc
        writer = PcapWriter(file, time.time(), time.monotonic())
        return lambda kind, packet: writer.write(kind, packet, time.monotonic())


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


async def _wait_direct(workspace: Workspace) -> None:
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


def _print_row(interval: Interval) -> None:
    """One live row; the title goes before the first."""
    if interval.start == 0:
        print(f"{TITLE[0]:<17}{TITLE[1]:<20}{TITLE[2]}")
    _print_interval(interval)


def _print_interval(interval: Interval) -> None:
    span = f"{interval.start:.2f}-{interval.end:.2f} sec"
    transfer = f"{interval.megabits:.4f} MBits"
    print(f"{span:<17}{transfer:<20}{interval.megabits_per_second:.4f} Mbits/sec")
    sys.stdout.flush()

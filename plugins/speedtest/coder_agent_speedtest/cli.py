"""`coder speedtest`: parse, run one test, print rows as they come."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from coder_agent.api import client_config
from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.durations import format_latency, parse_duration
from coder_agent.cli.output import Output, OutputOption, note, print_json
from coder_agent.client import ClientConfig, open_workspace
from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName

from .pcap import PcapWriter
from .protocol import Direction, Interval
from .run import Report, Result, Test, path_label, wait_direct

TITLE = ("INTERVAL", "TRANSFER", "BANDWIDTH")
RULE = "-" * 54
MAX_PARALLEL = 32
"""Streams a direction. More only share the same path, and the windows of so many take 130 MB."""


class Way(StrEnum):
    """``--direction``: which way the bytes go, as the stock command names it; both ways at once is ours."""

    DOWN = "down"
    UP = "up"
    BOTH = "both"


DIRECTIONS = {
    Way.DOWN: (Direction.DOWNLOAD,),
    Way.UP: (Direction.UPLOAD,),
    Way.BOTH: (Direction.DOWNLOAD, Direction.UPLOAD),
}
SHORT = {Direction.DOWNLOAD: "down", Direction.UPLOAD: "up"}


def speedtest(
    ctx: typer.Context,
    workspace: WorkspaceArgument,
    direct: Annotated[bool, typer.Option("--direct", "-d", help="wait for a direct path first")] = False,
    direction: Annotated[Way, typer.Option(help="down: the workspace sends")] = Way.DOWN,
    duration: Annotated[str, typer.Option("--time", "-t", help="5s, 1m30s …")] = "5s",
    parallel: Annotated[int, typer.Option("--parallel", "-P", min=1, max=MAX_PARALLEL, help="streams a direction")] = 1,
    pcap_file: Annotated[Path | None, typer.Option(help="capture the tunnel's packets here")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure the speed between this machine and a workspace, and say what carries and what limits it.

    "via direct" is an end-to-end path; "via CODE" is the relay region that carries the test.
    """
    cli: Cli = ctx.obj
    if direct and cli.settings.client.disable_direct_connections:
        raise ConfigError(
            "--direct and --disable-direct-connections contradict each other", hint="leave one of the two out"
        )
    command = _Command(
        client_config(cli, say=note),
        WorkspaceName.parse(workspace),
        DIRECTIONS[direction],
        parse_duration(duration),
        direct,
        parallel,
    )
    printer = _Printer(both=direction is Way.BOTH)
    capture = _open_pcap(pcap_file) if pcap_file is not None else None
    try:
        result = anyio.run(command.run, printer.row if output is Output.TABLE else _no_row, capture)
    finally:
        if capture is not None:
            capture.close()
    if output is Output.JSON:
        print_json(document(result))
    else:
        printer.totals(result)
    if capture is not None and capture.error is not None:
        reason = capture.error.strerror
        raise ConfigError(f"the capture in {pcap_file} is not complete: {reason}", hint="choose another --pcap-file")


def document(result: Result) -> dict[str, object]:
    """The JSON result: the stock command's keys, what carried the test, and what limited it.

    Both ways at once: the rows say which they are, `overall` is the sum, and each way has its own total.
    """
    totals = {SHORT[one.direction]: _json(one.total) for one in result.measured}
    rows = [(one.direction, row) for one in result.measured for row in one.rows]
    common = {"path": result.path, "bottleneck": _bottleneck(result)}
    if len(result.measured) == 1:
        return {
            "overall": _json(result.measured[0].total),
            "intervals": [_json(row) for _, row in rows],
            **common,
        }
    whole = {
        "start_time_seconds": 0.0,
        "end_time_seconds": max(total["end_time_seconds"] for total in totals.values()),
        "throughput_mbits": sum(total["throughput_mbits"] for total in totals.values()),
    }
    ordered = sorted(rows, key=lambda row: row[1].end)
    return {
        "overall": whole,
        "intervals": [{"direction": SHORT[way], **_json(row)} for way, row in ordered],
        **totals,
        **common,
    }


def _json(interval: Interval) -> dict[str, float]:
    return {
        "start_time_seconds": interval.start,
        "end_time_seconds": interval.end,
        "throughput_mbits": interval.megabits_per_second,
    }


def _bottleneck(result: Result) -> dict[str, Any]:
    found = result.bottleneck
    return {
        "code": found.limit.value,
        "text": found.text,
        "sender_cpu": found.sender_cpu,
        "receiver_cpu": found.receiver_cpu,
        "loss": found.loss,
    }


class _Command:
    """What is to be measured, and how."""

    def __init__(
        self,
        config: ClientConfig,
        name: WorkspaceName,
        directions: tuple[Direction, ...],
        seconds: float,
        direct: bool,
        parallel: int,
    ) -> None:
        self._config, self._name = config, name
        self._directions, self._seconds = directions, seconds
        self._direct, self._parallel = direct, parallel

    async def run(self, report: Report, capture: PcapWriter | None) -> Result:
        """Connect and test."""
        async with open_workspace(self._config, self._name) as workspace:
            if capture is not None:
                workspace.node.set_tap(lambda kind, packet: capture.write(kind, packet, time.monotonic()))
            if self._direct:
                await wait_direct(workspace)
            latency, path = await path_label(workspace)
            note(f"{format_latency(latency)} via {path}")
            ways = " and ".join(map(str, self._directions))
            streams = f" with {self._parallel} streams" if self._parallel > 1 else ""
            note(f"Starting a {self._seconds:g}s {ways} test{streams}...")
            test = Test(workspace, self._directions, self._seconds, self._parallel, report)
            return await test.run(path)


def _open_pcap(path: Path) -> PcapWriter:
    try:
        return PcapWriter(path.open("wb"), time.time(), time.monotonic())
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}", hint="choose another --pcap-file") from exc


def _no_row(direction: Direction, interval: Interval) -> None:
    """JSON comes at the end."""


class _Printer:
    """The table, a row at a time; the title goes before the first."""

    def __init__(self, both: bool) -> None:
        self._both = both
        self._titled = False

    def row(self, direction: Direction, interval: Interval) -> None:
        """One live row."""
        if not self._titled:
            print(f"{'WAY':<6}" * self._both + f"{TITLE[0]:<17}{TITLE[1]:<20}{TITLE[2]}")
            self._titled = True
        self.interval(direction, interval)

    def totals(self, result: Result) -> None:
        """The end of the table, and what limited the test."""
        print(RULE)
        for measured in result.measured:
            self.interval(measured.direction, measured.total)
        print(f"limited by {result.bottleneck.text}")

    def interval(self, direction: Direction, interval: Interval) -> None:
        """A row or a total."""
        way = f"{SHORT[direction]:<6}" * self._both
        span = f"{interval.start:.2f}-{interval.end:.2f} sec"
        transfer = f"{interval.megabits:.4f} MBits"
        print(f"{way}{span:<17}{transfer:<20}{interval.megabits_per_second:.4f} Mbits/sec")
        sys.stdout.flush()

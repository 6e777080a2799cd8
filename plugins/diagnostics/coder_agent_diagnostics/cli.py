"""`coder ping`: pings a workspace and says what carries them."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import anyio.abc
import typer

from coder_agent.api import client_config
from coder_agent.base.paths import DerpPath, PathKind
from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.durations import format_latency, parse_duration
from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.client import ClientConfig, Workspace, open_workspace
from coder_agent.errors import PeerUnreachable
from coder_agent.explain import settle, situation_of
from coder_agent.node import Pong
from coder_agent.verdict.document import to_document
from coder_agent.verdict.judge import judge
from coder_agent.workspace_name import WorkspaceName

from .connection import diagnose, documents, lines_of
from .explain import counter_lines, evidence_lines, headline, verdict_lines
from .peer import peer_lines
from .report import RedactOption, ReportOption, write_report
from .summary import Summary


@dataclass(slots=True)
class Options:
    """What the command was asked for. Units: seconds; `count` 0 = until interrupted."""

    name: str
    wait: float
    timeout: float
    count: int
    stamp: str
    verbose: bool
    table: bool
    report: Path | None = None
    redact: bool = True


def ping(
    ctx: typer.Context,
    workspace: WorkspaceArgument,
    wait: Annotated[str, typer.Option(help="time between pings")] = "1s",
    timeout: Annotated[str, typer.Option("--timeout", "-t", help="time a ping may take")] = "5s",
    num: Annotated[int, typer.Option("--num", "-n", min=0, help="stop after so many; 0 = on Ctrl-C")] = 0,
    time: Annotated[bool, typer.Option("--time", help="print the local time of each pong")] = False,
    utc: Annotated[bool, typer.Option("--utc", help="print the time in UTC")] = False,
    report: ReportOption = None,
    redact: RedactOption = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ping a workspace: how long, and over which path.

    "p2p via ip:port" is a direct path between the two machines; "proxied via DERP" names the relay in between. When the
    path is not direct, the reason follows, with its evidence and what would help; -v shows them always.
    """
    cli: Cli = ctx.obj
    options = Options(
        name=workspace,
        wait=parse_duration(wait),
        timeout=parse_duration(timeout),
        count=num,
        stamp="utc" if utc else "local" if time else "",
        verbose=cli.verbose,
        table=output is Output.TABLE,
        report=report,
        redact=redact,
    )
    run = _Run(client_config(cli, say=note), options)
    anyio.run(run.run)
    if output is Output.JSON:
        print_json({"workspace": workspace, "pongs": run.pongs, "summary": run.summary.document(), **run.explanation})
    else:
        _print_summary(workspace, run.summary)
    if run.summary.total and not run.summary.successful:
        raise PeerUnreachable(f"workspace {workspace} answered none of {run.summary.total} pings")


@dataclass(slots=True)
class _Run:
    """One run of the command."""

    config: ClientConfig
    options: Options
    summary: Summary = field(default_factory=Summary)
    pongs: list[dict[str, object]] = field(default_factory=list)
    explanation: dict[str, object] = field(default_factory=dict)
    _started: float = 0.0
    _direct_said: bool = False
    _pinging: anyio.CancelScope | None = None

    async def run(self) -> None:
        """Connect, explain, ping until the count is reached or a signal comes."""
        self._started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
            async with open_workspace(self.config, WorkspaceName.parse(self.options.name)) as workspace:
                if self.options.verbose:
                    for line in peer_lines(workspace):
                        note(line)
                await self._loop(workspace)
                await self._conclude(workspace)
            tasks.cancel_scope.cancel()
        if not self.summary.total:  # interrupted before the first ping
            raise KeyboardInterrupt

    async def _stop_on_signal(self, everything: anyio.CancelScope) -> None:
        """Ctrl-C ends the pinging, not the report about it; before the first ping it ends everything."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                (self._pinging or everything).cancel()

    async def _loop(self, workspace: Workspace) -> None:
        sequence = 0
        with anyio.CancelScope() as self._pinging:
            while True:
                sequence += 1
                try:
                    pong = await workspace.ping(timeout=self.options.timeout)
                except PeerUnreachable as exc:
                    self._failed(sequence, exc)
                else:
                    self._answered(workspace, sequence, pong)
                if sequence == self.options.count:
                    return
                await anyio.sleep(self.options.wait)

    def _answered(self, workspace: Workspace, sequence: int, pong: Pong) -> None:
        self.summary.add(pong.latency)
        direct = pong.kind is PathKind.DIRECT
        region = pong.path.region if isinstance(pong.path, DerpPath) else 0
        if not self.options.table:
            self.pongs.append(self._record(sequence, pong.latency, direct, workspace.region_name(region), None))
            return
        if direct and not self._direct_said:
            self._direct_said = True
            note(f"p2p connection established in {format_latency(anyio.current_time() - self._started)}")
        way = f"p2p via {pong.path}" if direct else f"proxied via DERP({workspace.region_name(region)})"
        self._print(f"pong from {self.options.name} {way} in {format_latency(pong.latency)}")

    def _failed(self, sequence: int, error: PeerUnreachable) -> None:
        self.summary.add(None)
        if self.options.table:
            self._print(f'ping to "{self.options.name}" failed: {error.message}')
        else:
            self.pongs.append(self._record(sequence, None, False, "", error.message))

    def _record(
        self, sequence: int, latency: float | None, direct: bool, region: str, error: str | None
    ) -> dict[str, object]:
        return {
            "sequence": sequence,
            "time": datetime.now(UTC).isoformat(),
            "latency_ms": None if latency is None else round(latency * 1e3, 3),
            "direct": direct,
            "derp_region": None if direct or latency is None else region,
            "error": error,
        }

    def _print(self, line: str) -> None:
        stamp = ""
        if self.options.stamp:
            now = datetime.now(UTC) if self.options.stamp == "utc" else datetime.now().astimezone()
            stamp = f"[{now.isoformat(timespec='seconds')}] "
        print(stamp + line, flush=True)

    async def _conclude(self, workspace: Workspace) -> None:
        if not self.summary.total:
            return
        with anyio.CancelScope() as self._pinging:  # Ctrl-C: say what is known so far
            await settle(workspace.node, workspace.key)
        situation = situation_of(workspace.node, workspace.key)
        verdict = judge(situation)
        diagnostics = diagnose(situation)
        counters = workspace.node.counters()
        self.explanation = {
            "verdict": to_document(verdict),
            "diagnostics": documents(diagnostics),
            "counters": counters,
        }
        status = workspace.path()
        if status.kind is not PathKind.DIRECT or self.options.verbose:
            for line in (*lines_of(diagnostics), "Evidence:", *evidence_lines(verdict)):
                note(line)
        if self.options.verbose:
            for line in counter_lines(counters):
                note(line)
        note(headline(status, workspace.region_name(status.region)))
        for line in verdict_lines(verdict):
            note(line)
        if self.options.report is not None:
            write_report(situation, self.options.report, made_by="coder ping", redacted=self.options.redact)


def _print_summary(name: str, summary: Summary) -> None:
    columns = ["workspace", "total", "successful", "min", "avg", "max", "variance"]
    times = [format_latency(t) if summary.successful else "-" for t in (summary.minimum, summary.mean, summary.maximum)]
    variance = f"{summary.variance * 1e6:.3f}ms²" if summary.successful > 1 else "-"
    print_table(columns, [[name, summary.total, summary.successful, *times, variance]])

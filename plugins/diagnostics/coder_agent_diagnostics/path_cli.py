"""`coder path`: how packets reach a workspace now, or (`--watch`) from now on."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer

from coder_agent.api import client_config
from coder_agent.base.paths import PathKind
from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.durations import format_latency
from coder_agent.cli.output import Output, OutputOption, note, print_json
from coder_agent.client import ClientConfig, Workspace, open_workspace
from coder_agent.errors import PeerUnreachable
from coder_agent.explain import ask, explain, settle, situation_of
from coder_agent.hooks.events import Event, EventSink, PathChanged
from coder_agent.node import PathStatus
from coder_agent.verdict.judge import judge
from coder_agent.verdict.situation import Verdict
from coder_agent.workspace_name import WorkspaceName

from .explain import evidence_lines, headline, verdict_lines
from .loss import Loss
from .path_document import path_document

KEEP_ACTIVE = 2.0
"""Seconds between the pings of a watch: often enough to notice loss, and a session stays active for 45 s."""
PING_TIMEOUT = 1.5


def path(
    ctx: typer.Context,
    workspace: WorkspaceArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="follow changes until Ctrl-C")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say how packets reach a workspace: the path, what was tried, why it is this one, and what would help.

    With --watch each change is a line: when, by which way, why, latency, loss and MTU (JSON: one document per line).
    """
    cli: Cli = ctx.obj
    run = _Run(client_config(cli, say=note), workspace, watch, output is Output.JSON)
    anyio.run(run.run)


@dataclass(slots=True)
class _Run:
    """One run of the command."""

    config: ClientConfig
    name: str
    watch: bool
    as_json: bool
    _reason: str = "first look"
    _last: tuple[object, ...] = ()

    async def run(self) -> None:
        """Connect and look; with `watch`, again whenever something changed."""
        self.config.node.emit = self._listen(self.config.node.emit)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
            async with open_workspace(self.config, WorkspaceName.parse(self.name)) as workspace:
                if self.watch:
                    await self._follow(workspace)
                else:
                    await self._look(workspace)
            tasks.cancel_scope.cancel()

    async def _stop_on_signal(self, everything: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                everything.cancel()
                return

    def _listen(self, others: EventSink) -> EventSink:
        """Note the reason of each change, and pass events on."""

        def emit(event: Event) -> None:
            if isinstance(event, PathChanged):
                self._reason = event.reason
            others(event)

        return emit

    # ------------------------------------------------------------ once

    async def _look(self, workspace: Workspace) -> None:
        try:
            await workspace.ping()
        except PeerUnreachable as exc:
            note(f"ping: {exc.message}")
        await settle(workspace.node, workspace.key)
        verdict = judge(situation_of(workspace.node, workspace.key))
        status = workspace.path()
        if self.as_json:
            print_json({"workspace": self.name, **path_document(workspace, status, verdict)})
            return
        print(headline(status, workspace.region_name(status.region)))
        for line in (*verdict_lines(verdict), "Evidence:", *evidence_lines(verdict)):
            print(line)

    # ------------------------------------------------------------ watch

    async def _follow(self, workspace: Workspace) -> None:
        loss = Loss()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_active, workspace, loss)
            while True:
                if workspace.path().kind is not PathKind.DIRECT:
                    await ask(workspace.node, workspace.key)
                self._tell(workspace, loss)
                with anyio.move_on_after(KEEP_ACTIVE):
                    await workspace.node.wait_any_path()

    async def _keep_active(self, workspace: Workspace, loss: Loss) -> None:
        while True:
            try:
                await workspace.ping(timeout=PING_TIMEOUT)
                loss.add(True)
            except PeerUnreachable:
                loss.add(False)
            await anyio.sleep(KEEP_ACTIVE)

    def _tell(self, workspace: Workspace, loss: Loss) -> None:
        """One line, if anything but the latency is another than in the last one."""
        status = workspace.path()
        verdict = explain(workspace.node, workspace.key)
        sizes = (status.wire_mtu, status.tunnel_mtu)
        facts = (status.kind, status.addr, status.region, sizes, verdict.code, loss.is_losing)
        if facts == self._last:
            return
        self._last = facts
        now = datetime.now(UTC)
        if self.as_json:
            document = path_document(workspace, status, verdict)
            line = {"time": now.isoformat(), "reason": self._reason, "loss": loss.rate, **document}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(self._line(now.astimezone(), workspace, status, verdict, loss), flush=True)
        self._reason = "same path"

    def _line(self, now: datetime, workspace: Workspace, status: PathStatus, verdict: Verdict, loss: Loss) -> str:
        way = {
            PathKind.DIRECT: f"direct {status.addr}",
            PathKind.RELAYED: f"relay  {workspace.region_name(status.region)}",
            PathKind.NONE: "no path",
        }[status.kind]
        latency = "-" if status.latency is None else format_latency(status.latency)
        sizes = f", MTU {status.wire_mtu}, tunnel {status.tunnel_mtu}"
        mtu = sizes if status.kind is PathKind.DIRECT and status.wire_mtu else ""
        measured = f"{latency}, loss {loss.rate:.0%}{mtu}"
        why = f"{verdict.summary} [{verdict.code}]"
        return f"{now.isoformat(timespec='seconds')}  {way}  ({self._reason}; {measured})  {why}"

"""`coder connections` and `coder agent-token`: who was connected to a workspace, and who may be its agent."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import typer

from ..directory import ago, find_agent, find_workspace, parse_time
from ..runtime.http import ApiClient
from ..workspace_name import WorkspaceName
from .apps import PlaceArgument, api_of
from .context import Cli
from .output import Output, OutputOption, note, print_json, print_table
from .questions import agreed

KINDS = {"reconnecting_pty": "terminal", "ssh": "SSH", "vscode": "VS Code", "jetbrains": "JetBrains"}
"""Of the connection log, where people have another word."""


def connections(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[[OWNER/]WORKSPACE]", help="of this workspace; none = of all of yours")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="so many, the newest")] = 25,
    ongoing: Annotated[bool, typer.Option("--open", help="only those that are open now")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who was connected to a workspace: tunnels, sessions, web apps and ports; when, from where, how much."""
    found = anyio.run(_connections, api_of(ctx.obj), name, limit, ongoing)
    if output is Output.JSON:
        print_json(found)
        return
    if not found:
        note("Nobody was connected.")
        return
    columns = ["since", "for", "workspace", "what", "who", "from", "in", "out", "end"]
    print_table(columns, [_row(one) for one in found])


async def _connections(api: ApiClient, name: str | None, limit: int, ongoing: bool) -> list[dict[str, Any]]:
    words = ["status:ongoing"] if ongoing else []
    if name is not None:
        words.append(f"workspace_id:{(await find_workspace(api, WorkspaceName.parse(name)))['id']}")
    reply = await api.get(f"/api/v2/connectionlog?limit={limit}&q={quote(' '.join(words))}")
    found: list[dict[str, Any]] = reply["connection_logs"]
    return found


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    web, session = one.get("web_info") or {}, one.get("ssh_info") or {}
    kind = {"workspace_app": "app", "port_forwarding": "port"}.get(one["type"], KINDS.get(one["type"], one["type"]))
    who = one.get("user") or web.get("user") or {}
    began = parse_time(one["connect_time"]) or datetime.now(UTC)
    ended = parse_time(one.get("disconnect_time") or session.get("disconnect_time"))
    return (
        ago(one["connect_time"]),
        "open" if ended is None else _span((ended - began).total_seconds()),
        f"{one['workspace_owner_username']}/{one['workspace_name']}.{one['agent_name']}",
        f"{kind} {web.get('slug_or_port', '')}".strip(),
        who.get("username", ""),
        one.get("ip") or "",
        _amount(one.get("rx_bytes")),
        _amount(one.get("tx_bytes")),
        _end(one, web, session),
    )


def _end(one: dict[str, Any], web: dict[str, Any], session: dict[str, Any]) -> str:
    if web:
        return str(web.get("status_code") or "")
    code = session.get("exit_code")
    return one.get("disconnect_reason") or session.get("disconnect_reason") or (f"exit {code}" if code else "")


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _amount(count: int | None) -> str:
    """Bytes for people; empty = not known."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def agent_token(
    ctx: typer.Context,
    name: PlaceArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a new token for a workspace's agent and print its start line; whoever uses the old one is disconnected.

    The token is shown this one time.
    """
    cli: Cli = ctx.obj
    if not yes and not agreed(
        f"Replace the token of {name}? Its agent is disconnected until it has the new one.", "the token stays"
    ):
        note("The token stays as it is.")
        raise typer.Exit(1)
    reply = anyio.run(_new_token, api_of(cli), WorkspaceName.parse(name))
    line = f"CODER_AGENT_URL={shlex.quote(cli.url())} CODER_AGENT_TOKEN={reply['token']} coder-agent run"
    if output is Output.JSON:
        print_json({**reply, "command": line})
        return
    note(f"The agent of {name} has a new token. On its machine, run:\n")
    print(line)


async def _new_token(api: ApiClient, name: WorkspaceName) -> dict[str, Any]:
    agent = await find_agent(api, name)
    reply: dict[str, Any] = await api.post(f"/api/v2/workspaceagents/{agent.id}/token", {})
    return reply

"""`coder create`, `list` and `delete`: workspaces are registered, not provisioned."""

from __future__ import annotations

import shlex
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import typer

from ..directory import ago, find_workspace
from ..errors import ApiError
from ..runtime.http import ApiClient, NotOffered
from ..workspace_name import WorkspaceName
from .apps import parse_app
from .arguments import RegisteredArgument
from .context import Cli
from .output import Output, OutputOption, note, print_json, print_table
from .questions import agreed

BUILD_POLL = 0.5
"""Seconds between two looks at what a server builds."""
NameArgument = Annotated[str, typer.Argument(metavar="[OWNER/]WORKSPACE", help="the workspace's name")]


def _api(cli: Cli) -> ApiClient:
    return ApiClient(cli.url(), cli.token(), cli.dial_options())


def create(
    ctx: typer.Context,
    name: NameArgument,
    agent: Annotated[str, typer.Option(help="name of its agent")] = "main",
    app: Annotated[
        list[str] | None, typer.Option(metavar="SLUG=URL", help="a web app of it, such as web=8080; may be repeated")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Register a workspace and print the line that starts its agent on the other machine.

    The token is shown this one time; whoever has it can be the workspace's agent.
    """
    cli: Cli = ctx.obj
    wanted = WorkspaceName.parse(name)
    api = _api(cli)
    body = {"name": wanted.workspace, "agent_name": agent, "apps": [parse_app(text) for text in app or ()]}
    reply = anyio.run(_create, api, wanted, body)
    # On one command line for people, but not in the shell's history of the other machine: the variable is a prefix.
    line = f"CODER_AGENT_URL={shlex.quote(cli.url())} CODER_AGENT_TOKEN={reply['agent_token']} coder-agent run"
    if output is Output.JSON:
        print_json({**reply, "command": line})
        return
    note(f"Workspace {wanted} is registered. On its machine, run:\n")
    print(line)
    note(f"\nThen `coder ping {name}` and `coder speedtest {name}` reach it. The token is not shown again.")


async def _create(api: ApiClient, wanted: WorkspaceName, body: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/v2/users/{quote(wanted.owner)}/workspaces"
    try:
        reply: dict[str, Any] = await api.post(path, body)
    except ApiError as exc:
        if "template_id" not in {name for name, _ in exc.validations}:
            raise
        raise ApiError(
            f"{api.url} makes workspaces from templates, as stock Coder servers do",
            hint="create it in the dashboard, or by a stock `coder create --template`; then use it from here",
            status=exc.status,
        ) from exc
    return reply


def list_(
    ctx: typer.Context,
    everyone: Annotated[bool, typer.Option("--all", "-a", help="also those of other users")] = False,
    search: Annotated[str, typer.Option(help="as the server understands it: owner:me, name:dev")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List workspaces and whether their agents are connected."""
    query = search or ("" if everyone else "owner:me")
    reply = anyio.run(_api(ctx.obj).get, f"/api/v2/workspaces?q={quote(query)}")
    workspaces = reply["workspaces"]
    if output is Output.JSON:
        print_json(workspaces)
        return
    if not workspaces:
        note("No workspaces found. Register one with `coder create NAME`.")
        return
    print_table(["workspace", "agent", "status", "last seen", "created"], [r for w in workspaces for r in _rows(w)])


def _rows(workspace: dict[str, Any]) -> list[tuple[str, ...]]:
    name = f"{workspace['owner_name']}/{workspace['name']}"
    created = ago(workspace["created_at"])
    agents = [agent for resource in workspace["latest_build"]["resources"] for agent in resource["agents"]]
    if not agents:
        return [(name, "", "no agent", "", created)]
    return [(name, a["name"], a["status"], ago(a.get("last_connected_at")), created) for a in agents]


def delete(
    ctx: typer.Context,
    name: RegisteredArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Remove a workspace: its agent is disconnected and its token stops working."""
    wanted = WorkspaceName.parse(name)
    api = _api(ctx.obj)
    workspace = anyio.run(find_workspace, api, wanted)
    label = f"{workspace['owner_name']}/{workspace['name']}"
    if not yes and not agreed(f"Remove {label}?", f"{label} was not removed"):
        note(f"Workspace {label} stays.")
        raise typer.Exit(1)
    anyio.run(_delete, api, workspace["id"])
    if output is Output.JSON:
        print_json({"id": workspace["id"], "deleted": label})
    else:
        print(f"Workspace {label} is removed.")


async def _delete(api: ApiClient, workspace_id: str) -> None:
    try:
        await api.delete(f"/api/v2/workspaces/{workspace_id}")
    except NotOffered:
        await _tear_down(api, workspace_id)


async def _tear_down(api: ApiClient, workspace_id: str) -> None:
    """A stock server takes down what a template has built, which may take its time."""
    build = await api.post(f"/api/v2/workspaces/{workspace_id}/builds", {"transition": "delete"})
    note("The server takes it down; Ctrl-C leaves it to that.")
    while build["job"]["status"] in ("pending", "running"):
        await anyio.sleep(BUILD_POLL)
        build = await api.get(f"/api/v2/workspacebuilds/{build['id']}")
    job = build["job"]
    if job["status"] != "succeeded":
        raise ApiError(f"the server could not remove it: {job.get('error') or job['status']}", status=409)

"""`coder app add`, `list` and `remove`, and `coder port-share`: what a workspace offers to browsers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import typer

from ..directory import find_agent, find_workspace
from ..errors import ConfigError
from ..hooks.web import CorsBehavior, SharingLevel
from ..runtime.http import ApiClient, NotOffered
from ..workspace_name import WorkspaceName
from .context import Cli
from .output import Output, OutputOption, note, print_json, print_table

PlaceArgument = Annotated[
    str, typer.Argument(metavar="[OWNER/]WORKSPACE[.AGENT]", help="the workspace, with its agent if it has several")
]
SlugArgument = Annotated[str, typer.Argument(help="the app's name in addresses: lower-case letters, digits, dashes")]


class Protocol(StrEnum):
    """What the program behind a port speaks."""

    HTTP = "http"
    HTTPS = "https"


def api_of(cli: Cli) -> ApiClient:
    """The server, as the user who runs the command."""
    return ApiClient(cli.url(), cli.token(), cli.dial_options())


def parse_app(text: str) -> dict[str, str]:
    """``slug=url`` or ``slug=port`` of `coder create --app`. Raises ConfigError."""
    slug, equals, target = text.partition("=")
    if not equals or not slug or not target:
        raise ConfigError(
            f"--app {text!r}: there is no `slug=url`", hint="write it like --app web=http://localhost:8080"
        )
    return {"slug": slug, "url": local_url(target)}


def local_url(target: str) -> str:
    """A bare port means plain HTTP on the workspace's loopback."""
    return f"http://localhost:{target}" if target.isascii() and target.isdigit() else target


def add(
    ctx: typer.Context,
    name: PlaceArgument,
    slug: SlugArgument,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="where it is, as the workspace sees it: a URL, or just a port of loopback"
        ),
    ] = None,
    command: Annotated[str, typer.Option(help="a command for the web terminal, instead of a URL")] = "",
    display_name: Annotated[str, typer.Option(help="what people read")] = "",
    icon: Annotated[str, typer.Option(help="URL of a picture, or a path on the server")] = "",
    share: Annotated[SharingLevel, typer.Option(help="who may open it")] = SharingLevel.OWNER,
    subdomain: Annotated[bool, typer.Option("--subdomain", help="on a host of its own, not on a path")] = False,
    external: Annotated[bool, typer.Option("--external", help="the URL is a link for the browser")] = False,
    healthcheck: Annotated[str, typer.Option(metavar="URL", help="the agent asks this whether the app works")] = "",
    interval: Annotated[int, typer.Option(min=1, help="seconds between two such questions")] = 5,
    threshold: Annotated[int, typer.Option(min=1, help="so many failures make it unhealthy")] = 6,
    hidden: Annotated[bool, typer.Option("--hidden", help="not shown in the dashboard")] = False,
    order: Annotated[int, typer.Option(help="where it stands in the dashboard; small numbers first")] = 0,
    cors: Annotated[CorsBehavior, typer.Option(help="who answers cross-origin questions: server or app")] = (
        CorsBehavior.SIMPLE
    ),
    trust: Annotated[
        bool, typer.Option("--trust", help="on a path, let it share the server's origin for you (no sandbox)")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="change it if it is there")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Declare a web app of a workspace: the dashboard shows it, and the server leads browsers to it."""
    body = {
        "slug": slug,
        "url": local_url(target or ""),
        "command": command,
        "display_name": display_name,
        "icon": icon,
        "sharing_level": share.value,
        "subdomain": subdomain,
        "external": external,
        "healthcheck_url": local_url(healthcheck),
        "healthcheck_interval": interval,
        "healthcheck_threshold": threshold,
        "hidden": hidden,
        "order": order,
        "cors_behavior": cors.value,
        "trusted": trust,
    }
    document = anyio.run(_add, api_of(ctx.obj), WorkspaceName.parse(name), body, replace)
    if output is Output.JSON:
        print_json(document)
    else:
        print(f"App {slug} of {name} is declared; {_who(document['sharing_level'])} may open it.")


async def _add(api: ApiClient, name: WorkspaceName, body: dict[str, Any], replace: bool) -> Any:
    path = f"/api/v2/workspaceagents/{(await find_agent(api, name)).id}/apps"
    if replace:
        return await api.call("PUT", f"{path}/{quote(body['slug'], safe='')}", body)
    return await api.post(path, body)


def _who(level: str) -> str:
    whom = {"owner": "only its owner", "public": "everybody, even without signing in,"}
    return whom.get(level, "everybody who can sign in")


def list_(ctx: typer.Context, name: PlaceArgument, output: OutputOption = Output.TABLE) -> None:
    """List the apps of a workspace, with what its agent says of their health."""
    apps = anyio.run(_list, api_of(ctx.obj), WorkspaceName.parse(name))
    if output is Output.JSON:
        print_json(apps)
        return
    if not apps:
        note(f"No apps. Declare one with `coder app add {name} SLUG PORT`; on a stock server, in the template.")
        return
    columns = ["slug", "name", "where", "share", "health", "declared by"]
    print_table(columns, [_row(app) for app in apps])


def _row(app: dict[str, Any]) -> tuple[str, ...]:
    where = app.get("url") or f"$ {app.get('command', '')}"
    by = {"agent": "its agent", None: "its template"}.get(app.get("source"), "its owner")
    return app["slug"], app["display_name"], where, app["sharing_level"], app["health"], by


async def _list(api: ApiClient, name: WorkspaceName) -> list[dict[str, Any]]:
    path = f"/api/v2/workspaceagents/{(await find_agent(api, name)).id}"
    try:
        found: list[dict[str, Any]] = await api.get(f"{path}/apps")
    except NotOffered:
        found = (await api.get(path))["apps"]
    return found


def remove(ctx: typer.Context, name: PlaceArgument, slug: SlugArgument, output: OutputOption = Output.TABLE) -> None:
    """Forget an app. One that the agent's configuration declares comes back with the agent."""
    anyio.run(_remove, api_of(ctx.obj), WorkspaceName.parse(name), slug)
    if output is Output.JSON:
        print_json({"removed": slug})
    else:
        print(f"App {slug} of {name} is removed.")


async def _remove(api: ApiClient, name: WorkspaceName, slug: str) -> None:
    agent = await find_agent(api, name)
    await api.delete(f"/api/v2/workspaceagents/{agent.id}/apps/{quote(slug, safe='')}")


# ---------------------------------------------------------------- ports


def port_share(
    ctx: typer.Context,
    name: PlaceArgument,
    port: Annotated[int | None, typer.Argument(min=9, max=65535, help="the port; none = list what is shared")] = None,
    share: Annotated[SharingLevel, typer.Option(help="who may open it")] = SharingLevel.AUTHENTICATED,
    protocol: Annotated[Protocol, typer.Option(help="what the program there speaks")] = Protocol.HTTP,
    trust: Annotated[
        bool, typer.Option("--trust", help="on a path, let it share the server's origin for you (no sandbox)")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="it is its owner's alone again")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let others open a port of a workspace in the browser; without a port, list those that are shared."""
    body = {"share_level": share.value, "protocol": protocol.value, "trusted": trust}
    shares = anyio.run(_share, api_of(ctx.obj), WorkspaceName.parse(name), port, None if stop else body)
    if output is Output.JSON:
        print_json(shares)
        return
    if not shares:
        note("No port is shared.")
        return
    rows = [(s["agent_name"], str(s["port"]), s["protocol"], s["share_level"]) for s in shares]
    print_table(["agent", "port", "protocol", "share"], rows)


async def _share(api: ApiClient, name: WorkspaceName, port: int | None, body: dict[str, Any] | None) -> Any:
    workspace = await find_workspace(api, name)
    path = f"/api/v2/workspaces/{workspace['id']}/port-share"
    if port is not None:
        which = {"agent_name": (await find_agent(api, name)).name, "port": port}
        if body is None:
            await api.call("DELETE", path, which)
        else:
            await api.post(path, {**which, **body})
    return (await api.get(path))["shares"]

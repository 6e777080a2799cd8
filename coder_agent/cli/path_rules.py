"""`coder path-rules`: what the deployment allows about the paths to one workspace."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import typer

from ..base.path_rules import DirectRule
from ..directory import find_workspace
from ..errors import ConfigError
from ..runtime.http import ApiClient
from ..workspace_name import WorkspaceName
from .context import Cli
from .output import Output, OutputOption, note, print_json, print_table
from .workspaces import NameArgument


def path_rules(
    ctx: typer.Context,
    name: NameArgument,
    direct: Annotated[
        DirectRule | None, typer.Option(help="auto: no rule; never: always relayed; only: no relay for data")
    ] = None,
    region: Annotated[
        int | None,
        typer.Option("--region", min=0, max=65535, help="relay region to use where both ends can; 0: no rule"),
    ] = None,
    ipv6: Annotated[bool | None, typer.Option("--ipv6/--block-ipv6", help="direct connections over IPv6 too")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="remove all rules of this workspace first")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show, and with options change, the rules for the paths to a workspace.

    They hold for everybody who connects to it. The deployment's own rules stand above them, and a user's wishes
    (--direct-only, --disable-direct-connections …) below. A change reaches the agent at once and clients when they
    connect next; what is forbidden ends at once, for it needs both.
    """
    cli: Cli = ctx.obj
    changes = {"direct": None if direct is None else direct.value, "prefer_region": region, "ipv6": ipv6}
    given = {key: value for key, value in changes.items() if value is not None}
    api = ApiClient(cli.url(), cli.token(), cli.dial_options())
    document = anyio.run(_rules, api, WorkspaceName.parse(name), given, clear)
    if output is Output.JSON:
        print_json(document)
        return
    if given or clear:
        note(f"The rules of {name} are changed; its agent hears of it now, clients when they connect next.")
    columns = ["", "direct", "prefer region", "ipv6"]
    print_table(columns, [_row(whose, document[whose]) for whose in ("workspace", "deployment", "effective")])


async def _rules(api: ApiClient, name: WorkspaceName, given: dict[str, Any], clear: bool) -> dict[str, Any]:
    workspace = await find_workspace(api, name)
    path = f"/api/v2/workspaces/{workspace['id']}/path-rules"
    document: dict[str, Any] = await api.get(path)
    if "effective" not in document:
        raise ConfigError("this server has no path rules for workspaces")
    if not given and not clear:
        return document
    before = {} if clear else {key: document["workspace"][key] for key in ("direct", "prefer_region", "ipv6")}
    changed: dict[str, Any] = await api.call("PUT", path, {**before, **given})
    return changed


def _row(whose: str, rules: dict[str, Any]) -> tuple[str, str, str, str]:
    region = str(rules["prefer_region"]) if rules["prefer_region"] else ""
    return whose, rules["direct"], region, "yes" if rules["ipv6"] else "no"

"""`coder health`: is the deployment well, and if not, what to do."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import typer

from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.errors import ApiError, RemoteProtocolError
from coder_agent.http import ApiClient

from . import health_text

TIMEOUT = 90.0
"""Seconds; a server gives its checks 60."""
QUIET = 1.0
"""Seconds after which the user is told that something is going on."""


def health(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="check now; else a report of the last ten minutes will do")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check the deployment: relays, access URL, WebSocket, database. For its owners.

    Exit code 1 if a section has an error that nobody dismissed. `--output json` prints Coder's document.
    """
    cli: Cli = ctx.obj
    report = anyio.run(_ask, cli, force)
    if output is Output.JSON:
        print_json(report)
    else:
        _print(report)
    if health_text.is_failing(report):
        raise typer.Exit(1)


async def _ask(cli: Cli, force: bool) -> dict[str, Any]:
    url = cli.url()
    api = ApiClient(url, cli.token(), cli.dial_options())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_say_something)
        try:
            document = await api.get(f"/api/v2/debug/health{'?force=true' if force else ''}", timeout=TIMEOUT)
        except ApiError as error:
            raise _explained(error) from error
        finally:
            tasks.cancel_scope.cancel()
    if not isinstance(document, dict) or not any(True for _ in health_text.sections(document)):
        raise RemoteProtocolError(f"{url} answers with something that is no health report", hint="check the URL")
    return document


def _explained(error: ApiError) -> ApiError:
    if error.status not in (403, 404):
        return error
    return ApiError(
        "you may not see this deployment's health: that is for its owners", status=error.status, detail=error.detail
    )


async def _say_something() -> None:
    await anyio.sleep(QUIET)
    note("The server checks itself; a relay that does not answer takes ten seconds …")


def _print(report: dict[str, Any]) -> None:
    print_table(["section", "severity", "found"], health_text.rows(report))
    if nodes := health_text.region_rows(report):
        print()
        print_table(["region", "node", "relays", "round trip", "stun", "severity"], nodes)
    for remark in health_text.remarks(report):
        note(remark)
    print()
    print(f"{health_text.verdict(report)} Checked at {report.get('time', 'an unknown time')}.")

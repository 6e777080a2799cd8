"""`coder support bundle`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import anyio
import typer

from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.errors import ConfigError
from coder_agent.hooks.diagnostics import Diagnostic

from .archive import write_archive
from .collect import Collected, collect
from .sources import Context, Reached, named, of_the_deployment, of_this_program, recorded_log

README = """A support bundle of `coder support bundle`, made {when}.

{files}
Tokens, passwords and keys have been replaced by stars where they could be recognised. Addresses, names of machines,
users and workspaces are in it: look through it before you give it to anybody.
"""


def bundle(
    ctx: typer.Context,
    workspace: WorkspaceArgument = "",
    output_file: Annotated[
        Path | None,
        typer.Option("--output-file", "-O", help="where to write [env: CODER_SUPPORT_BUNDLE_OUTPUT_FILE]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be in it, and collect nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Collect what a maintainer needs to help into one zip file, without secrets. Nothing is sent anywhere.

    With a workspace, also the way to it. What cannot be collected is named, and the rest is written all the same.
    """
    cli: Cli = ctx.obj
    with recorded_log() as log:
        context = Context(cli)
        reached = Reached(cli, workspace) if workspace else None
        diagnostics = [
            *of_this_program(cli, log),
            *of_the_deployment(context),
            *cli.host.diagnostics(context),
            *(reached.diagnostics(context) if reached else []),
        ]
        if dry_run:
            _list(diagnostics, output)
            return
        path = output_file or _default_path(cli)
        _ask(path, yes)
        note(f"Collecting {len(diagnostics)} files; this takes up to half a minute …")
        files = anyio.run(_run, diagnostics, reached)
    size = write_archive(path, [Collected("README.txt", _readme(diagnostics)), *files])
    missing = {one.name: one.problem for one in files if one.problem}
    if output is Output.JSON:
        print_json({"file": str(path), "size": size, "files": [one.name for one in files], "missing": missing})
        return
    for name, problem in missing.items():
        note(f"not in it: {name}: {problem}")
    print(path)
    note(f"{len(files) - len(missing)} files, {size / 1000:.0f} kB. Addresses and names are in it, secrets are not.")


async def _run(diagnostics: list[Diagnostic], reached: Reached | None) -> list[Collected]:
    late = [one for one in diagnostics if one.name == "client/log.txt"]  # after all that is logged
    first = [one for one in diagnostics if one not in late]
    files: list[Collected] = []

    async def everything() -> None:
        files.extend(await collect(first))

    if reached is None:
        await everything()
    else:
        await reached.run(everything)
    return sorted([*files, *await collect(late)], key=lambda one: one.name)


def _list(diagnostics: list[Diagnostic], output: Output) -> None:
    rows = named(diagnostics)
    if output is Output.JSON:
        print_json([{"name": name, "about": about} for name, about in rows])
    else:
        print_table(["file", "what"], rows)


def _readme(diagnostics: list[Diagnostic]) -> str:
    files = "".join(f"{name:<36} {about}\n" for name, about in named(diagnostics))
    return README.format(when=time.strftime("%Y-%m-%d %H:%M:%S %z"), files=files)


def _default_path(cli: Cli) -> Path:
    chosen = cli.environ.get("CODER_SUPPORT_BUNDLE_OUTPUT_FILE")
    return Path(chosen) if chosen else Path(f"coder-support-{int(time.time())}.zip")


def _ask(path: Path, yes: bool) -> None:
    """Nobody makes one by accident: it holds addresses and names."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("a support bundle is made for a person who agrees", hint="say `--yes` (-y) in scripts")
    note("A support bundle holds addresses and names of your machines, workspaces and users, but no secrets.")
    if not typer.confirm(f"Write {path}?", default=True, err=True):
        raise typer.Exit(1)

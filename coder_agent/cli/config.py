"""`coder config show`."""

from __future__ import annotations

import json

import typer

from .context import Cli
from .output import Output, OutputOption, note, print_json, print_table


def show(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Print the effective configuration and where each value comes from. Secrets are starred out."""
    cli: Cli = ctx.obj
    rows = cli.settings.rows()
    if output is Output.JSON:
        document: dict[str, dict[str, object]] = {}
        for row in rows:
            document.setdefault(row.section, {})[row.key] = {"value": row.value, "source": str(row.origin)}
        print_json({"file": str(cli.file.path) if cli.file.path else None, "settings": document})
        return
    note(f"configuration file: {cli.file.path or 'none'}")
    print_table(
        ["section", "key", "value", "source"],
        [(row.section, row.key, json.dumps(row.value, ensure_ascii=False), row.origin) for row in rows],
    )

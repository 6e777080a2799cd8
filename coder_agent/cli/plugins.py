"""`coder plugins list|info|hooks`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import ConfigError
from ..hooks.contract import HOOKS
from ..hooks.records import PluginRecord
from .context import Cli
from .output import Output, OutputOption, print_json, print_table


def _document(record: PluginRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": record.status,
        "error": record.error.message if record.error else None,
        "hint": record.error.hint if record.error else None,
        "hooks": list(record.hooks),
        "target": record.target,
    }


def _shown(cli: Cli) -> list[PluginRecord]:
    """Everything but the core itself. Asking for settings and commands finds plugins that fail in those hooks."""
    cli.host.settings_specs()
    cli.host.commands()
    return [record for record in cli.host.records if not record.builtin]


def list_(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List plugins: where each comes from, whether it works, and if not, why."""
    records = _shown(ctx.obj)
    if output is Output.JSON:
        print_json([_document(record) for record in records])
        return
    print_table(
        ["name", "distribution", "version", "status", "hooks"],
        [(r.name, r.distribution, r.version, r.status, " ".join(r.hooks)) for r in records],
    )
    for record in records:
        if record.error:
            print(f"\n{record.name}: {record.error.message}")
            if record.error.hint:
                print(f"  hint: {record.error.hint}")


def info(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="the plugin's name, as `coder plugins list` shows it")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell everything about one plugin: origin, state, hooks, commands, settings."""
    cli: Cli = ctx.obj
    _shown(cli)
    record = cli.host.record(name)
    if record is None:
        raise ConfigError(f"no plugin is called {name!r}", hint="`coder plugins list` shows them")
    document = _document(record)
    if record.status == "ok":
        document["settings"] = {
            row.key: row.value for row in cli.settings.rows() if row.section == f"plugins.{record.name}"
        }
    if output is Output.JSON:
        print_json(document)
        return
    for key, value in document.items():
        if value not in (None, "", [], {}):
            print(f"{key + ':':14}{_flat(value)}")


def _flat(value: object) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    if isinstance(value, dict):
        return "".join(f"\n  {key} = {json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
    return str(value)


def hooks(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the hooks: what each is for, its signature, and which plugins implement it."""
    cli: Cli = ctx.obj
    users = {name: [record.name for record in cli.host.records if name in record.hooks] for name in HOOKS}
    if output is Output.JSON:
        print_json(
            [
                {
                    "name": hook.name,
                    "signature": hook.signature,
                    "summary": hook.summary,
                    "firstresult": hook.firstresult,
                    "plugins": users[hook.name],
                }
                for hook in HOOKS.values()
            ]
        )
        return
    print_table(
        ["hook", "arguments", "plugins", "what for"],
        [(hook.name, " ".join(hook.arguments), " ".join(users[hook.name]), hook.summary) for hook in HOOKS.values()],
    )

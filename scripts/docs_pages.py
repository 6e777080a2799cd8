"""A hook of mkdocs: pages that are made from the product itself, and pages that live elsewhere in the repository.

Every command and every setting is read from the program, so the reference cannot say anything else than it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from coder_agent.cli.app import build_root
from coder_agent.cli.context import Program
from coder_agent.cli.lazy import RootGroup, Stub
from coder_agent.hooks.core_settings import CORE_SECTIONS
from coder_agent.hooks.manager import PluginHost, build_plugin_manager

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).resolve().parent.parent
FROM_ROOT = {"architecture.md": "ARCHITECTURE.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
PROGRAMS: tuple[Program, ...] = ("coder", "coder-agent")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/."""
    pages = {name: (ROOT / source).read_text("utf-8") for name, source in FROM_ROOT.items()}
    pages["reference/commands.md"] = commands_page()
    pages["reference/settings.md"] = settings_page()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


# ---------------------------------------------------------------- commands


def commands_page() -> str:
    """Both programs with every command, its arguments and flags."""
    parts = ["# Commands\n\nMade from the programs themselves; `coder COMMAND --help` prints the same.\n"]
    for program in PROGRAMS:
        root: Any = build_root(program)
        context = root.make_context(program, [], resilient_parsing=True)
        parts.append(f"## {program}\n\n{root.help}\n\n{_flags(root.params, context)}")
        for path, command in _commands(root, context, program):
            parts.append(
                f"### {path}\n\n{_description(command)}\n\n{_usage(path, command)}{_flags(command.params, context)}"
            )
    return "\n".join(parts)


def _commands(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(context):
        command = group.commands[name]
        if getattr(command, "hidden", False):
            continue
        if isinstance(command, Stub):
            yield f"{path} {name}", command.load([])
        elif not isinstance(command, RootGroup):
            yield from _commands(command, context, f"{path} {name}")


def _description(command: Any) -> str:
    return "\n".join(line.strip() for line in (command.help or "").replace("\b", "").splitlines())


def _usage(path: str, command: Any) -> str:
    words = [p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"]
    return f"```console\n$ {' '.join([path, *words])}\n```\n\n"


def _flags(parameters: Iterable[Any], context: Any) -> str:
    shown = [p for p in parameters if p.param_type_name == "option" and not p.hidden and "--help" not in p.opts]
    records = [p.get_help_record(context) for p in shown]
    if not records:
        return ""
    rows = [f"| `{names}` | {_cell(meaning)} |" for names, meaning in records]
    return "| flag | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


# ---------------------------------------------------------------- settings


def settings_page() -> str:
    """Every key of the configuration file."""
    parts = [
        "# Every setting\n\nKeys of the configuration file, by section. [How they are found](../configuration.md).\n"
    ]
    for name, model in CORE_SECTIONS.items():
        parts.append(f"## [{name}]\n\n{_keys(model, '')}")
    for name, model in _plugin_models(build_plugin_manager(builtin=[("core", "coder_agent.cli.builtin")])):
        parts.append(f"## [plugins.{name}]\n\n{_keys(model, name)}")
    return "\n".join(parts)


def _plugin_models(host: PluginHost) -> Iterator[tuple[str, type[BaseModel]]]:
    for spec in sorted(host.settings_specs(), key=lambda spec: spec.plugin):
        module, _, name = spec.target.partition(":")
        yield spec.plugin, getattr(import_module(module), name)


def _keys(model: type[BaseModel], plugin: str) -> str:
    rows = []
    for key, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        variable = extra.get("env") or (f"CODER_PLUGIN_{plugin.upper()}__{key.upper()}" if plugin else "")
        default = "" if field.default is PydanticUndefined or field.default in (None, "") else f"`{field.default}`"
        rows.append(
            f"| `{key}` | {f'`{variable}`' if variable else ''} | {default} | {_cell(field.description or '')} |"
        )
    if not rows:
        return "Nothing to set.\n"
    return "| key | environment | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

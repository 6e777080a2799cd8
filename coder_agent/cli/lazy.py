"""Commands that cost nothing until they run.

Typer wants to see every function, with everything it imports, before it can print one line of help. Here the root group
knows commands as CommandSpecs only: `--help` lists stubs that carry a name and a line of help, and the one command that
is really run is imported when its name has been read.

Only public typer is used at run time (TyperGroup, TyperCommand, get_command): typer 0.29 carries its own copy of click
as `typer._click`, so that click's own classes no longer fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ..errors import CoderAgentError, PluginLoadError
from ..hooks.interfaces import CommandSpec
from .context import Cli, Program
from .logs import start_logging
from .output import note

if TYPE_CHECKING:  # the vendored click: for annotations alone
    from typer._click.core import Command, Context, Parameter

SELECTION_FLAGS = ("config", "no_plugins", "disable_plugin", "only_plugin", "version")
"""Global flags that must stand before the command: they decide which commands there are."""

GROUPS = {
    "plugins": "See which plugins there are, and what they do.",
    "config": "See the effective configuration.",
    "lab": "Networks in a simulator: which get direct paths, and those of reports.",
    "airgap": "Keep a deployment off the Internet.",
    "support": "Ask for help.",
}
"""One line of help for a group of commands; a group that is not here gets a plain one."""


class Stub(TyperCommand):
    """A command that has not been imported."""

    def __init__(self, spec: CommandSpec) -> None:
        super().__init__(spec.name, help=spec.help, hidden=spec.hidden, rich_markup_mode=None)
        self.spec = spec

    def load(self, globals_: Sequence[Parameter]) -> Command:
        """Import the real command and let it accept the global flags too. Raises PluginLoadError."""
        module, _, name = self.spec.target.partition(":")
        try:
            function = getattr(import_module(module), name)
        except Exception as error:
            where = module.partition(".")[0]
            message = f"the command {self.spec.name!r} cannot be loaded from {self.spec.target}: {_short(error)}"
            raise PluginLoadError(where, message, hint=f"reinstall the package that {where} belongs to") from error
        app = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
        app.command(self.spec.name)(_synchronous(function))
        command = get_command(app)
        taken = {option for parameter in command.params for option in parameter.opts}
        command.params.extend(_behind(flag) for flag in globals_ if not taken.intersection(flag.opts))
        return command


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _synchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command be an `async def`: it runs on asyncio (the backend that the data path is tuned for)."""
    if not inspect.iscoroutinefunction(function):
        return function

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        import anyio

        return anyio.run(partial(function, *args, **kwargs), backend="asyncio")

    return run


def _behind(flag: Parameter) -> Parameter:
    """A copy of a global flag that may stand behind the command, as in ``coder ping dev -v``. It is not shown."""
    clone: Any = copy(flag)
    clone.expose_value, clone.is_eager, clone.hidden = False, False, True
    clone.default, clone.envvar = None, None
    clone.callback = _override
    return cast("Parameter", clone)


def _override(context: Context, parameter: Parameter, value: object) -> object:
    source = context.get_parameter_source(str(parameter.name))
    if value not in (None, (), [], False) or (source is not None and source.name == "COMMANDLINE"):  # `--no-…` is False
        cli = context.find_object(Cli)
        assert cli is not None
        cli.override(str(parameter.name), value)
        if parameter.name == "verbose":
            start_logging(cli)
    return value


class StubGroup(TyperGroup):
    """A group of stubs, such as ``coder plugins``."""

    def global_flags(self, ctx: Context) -> list[Parameter]:
        """What the root accepts and its commands shall accept as well."""
        root = ctx.find_root().command
        return [p for p in root.params if p.param_type_name == "option" and p.name not in SELECTION_FLAGS]

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Without any argument: help, as a good answer and not as an error."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """Find the command that `args` names, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, Stub):
            command = command.load(self.global_flags(ctx))
        return name, command, rest


class RootGroup(StubGroup):
    """The program itself. Which commands it has is known once the global flags are."""

    program: Program = "coder"

    def fill(self, ctx: Context, *, strict: bool) -> None:
        """Ask the plugins for commands, once. Unless `strict`, a broken configuration costs the plugins, not more."""
        if ctx.obj is not None:
            return
        cli = ctx.obj = Cli(self.program, dict(ctx.params))
        try:
            specs = cli.host.commands()
        except CoderAgentError as error:
            if strict:
                raise
            note(f"warning: {error.message}")
            cli.ignore_configuration()
            specs = cli.host.commands()
        for spec in specs:
            if spec.program == self.program:
                self._place(spec)

    def _place(self, spec: CommandSpec) -> None:
        stub = Stub(spec)
        if not spec.group:
            self.commands[spec.name] = stub
            return
        group = self.commands.get(spec.group)
        if not isinstance(group, TyperGroup):
            help_ = GROUPS.get(spec.group, f"Commands for {spec.group}.")
            group = StubGroup(name=spec.group, rich_markup_mode=self.rich_markup_mode, help=help_)
            self.commands[spec.group] = group
        group.commands[spec.name] = stub

    def list_commands(self, ctx: Context) -> list[str]:
        """All names, sorted: which plugin came first means nothing."""
        self.fill(ctx, strict=False)
        return sorted(self.commands)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The stub or group of that name."""
        self.fill(ctx, strict=False)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """A command is going to run: now a broken configuration counts."""
        self.fill(ctx, strict=not ctx.resilient_parsing)
        start_logging(ctx.obj)
        return super().resolve_command(ctx, args)

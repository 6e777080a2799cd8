"""The two programs, `coder` and `coder-agent`: global flags, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from typer.main import get_group

from .. import __version__
from ..errors import CoderAgentError
from .completion import get_ready, is_asked
from .context import Cli, Program
from .lazy import RootGroup
from .output import note
from .redact import redact

if TYPE_CHECKING:
    from typer.core import TyperGroup

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """`coder`: for users and server operators. Returns the exit code."""
    return run_program("coder", argv)


def agent_main(argv: Sequence[str] | None = None) -> int:
    """`coder-agent`: runs in a workspace. Returns the exit code."""
    return run_program("coder-agent", argv)


def run_program(program: Program, argv: Sequence[str] | None = None) -> int:
    """Run one command. A CoderAgentError becomes one line on stderr; any other exception is a bug and is raised."""
    _open_missing_streams()
    if is_asked(program, os.environ):
        get_ready()
    try:
        result = build_root(program).main(args=argv, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        if all(isinstance(leaf, BrokenPipeError) for leaf in _leaves(error)):  # also out of a task group
            return _stdout_is_lost()
        if all(isinstance(leaf, OSError) and leaf.errno in _NO_ROOM for leaf in _leaves(error)):
            _complain(f"cannot write the output: {os.strerror(errno.ENOSPC)}", None)
            return _stdout_is_lost()
        code = report(error)
        if code is None:
            raise
        return code
    return result if isinstance(result, int) else 0


def build_root(program: Program) -> TyperGroup:
    """The root group; its commands are found when the flags have been read."""
    group = type("Root", (RootGroup,), {"program": program})
    app = typer.Typer(
        name=program,
        cls=group,
        add_completion=False,  # `coder completion` does it
        rich_markup_mode=None,  # rich would take `[owner/]workspace` for markup, and boxes are no help to grep
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP[program])(_root)
    return get_group(app)


_HELP = {
    "coder": "Reach workspaces over a direct, end-to-end encrypted tunnel; or relayed, when there is no direct way.",
    "coder-agent": "Make this machine a workspace that its owner can reach through a coder server.",
}


def _print_version(value: bool) -> None:
    if value:
        print(f"coder-agent {__version__}")
        raise typer.Exit


Text = str | None
Names = list[str] | None


def _root(
    ctx: typer.Context,
    config: Annotated[Text, typer.Option(help="configuration file [env: CODER_CONFIG_PATH]", is_eager=True)] = None,
    url: Annotated[Text, typer.Option(help="URL of the coder server [env: CODER_URL, CODER_AGENT_URL]")] = None,
    token: Annotated[Text, typer.Option(help="token [env: CODER_SESSION_TOKEN, CODER_AGENT_TOKEN]")] = None,
    header: Annotated[Names, typer.Option(metavar="NAME=VALUE", help="on every request [env: CODER_HEADER]")] = None,
    header_command: Annotated[
        Text, typer.Option(metavar="CMD", help="program that prints headers [env: CODER_HEADER_COMMAND]")
    ] = None,
    proxy: Annotated[
        Text, typer.Option(metavar="URL", help="http:// or socks5:// proxy, or none [env: CODER_PROXY]")
    ] = None,
    ca_file: Annotated[
        Text,
        typer.Option("--client-tls-ca-file", metavar="PEM", help="trust this CA, too [env: CODER_CLIENT_TLS_CA_FILE]"),
    ] = None,
    client_cert_file: Annotated[
        Text,
        typer.Option(
            "--client-tls-cert-file", metavar="PEM", help="show this certificate [env: CODER_CLIENT_TLS_CERT_FILE]"
        ),
    ] = None,
    client_key_file: Annotated[
        Text, typer.Option("--client-tls-key-file", metavar="PEM", help="its key [env: CODER_CLIENT_TLS_KEY_FILE]")
    ] = None,
    global_config: Annotated[Text, typer.Option(help="where the login is kept [env: CODER_CONFIG_DIR]")] = None,
    use_keyring: Annotated[
        bool | None,
        typer.Option(
            "--use-keyring/--no-use-keyring",
            help="keep the login in the system's keyring, not in a file [env: CODER_USE_KEYRING]",
            show_default=False,
        ),
    ] = None,
    disable_direct_connections: Annotated[
        bool, typer.Option("--disable-direct-connections", help="relay only")
    ] = False,
    direct_only: Annotated[
        bool, typer.Option("--direct-only", help="no relay for data [env: CODER_DIRECT_ONLY]")
    ] = False,
    prefer_region: Annotated[
        int | None,
        typer.Option(metavar="ID", help="relay region to use where both ends can [env: CODER_PREFER_REGION]"),
    ] = None,
    no_ipv6: Annotated[bool, typer.Option("--no-ipv6", help="direct connections over IPv4 only")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="debug log on stderr")] = False,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="load no plugin", is_eager=True)] = False,
    disable_plugin: Annotated[Names, typer.Option(metavar="NAME", help="leave this plugin out", is_eager=True)] = None,
    only_plugin: Annotated[Names, typer.Option(metavar="NAME", help="load only this plugin", is_eager=True)] = None,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    cli: Cli = ctx.obj
    if ctx.invoked_subcommand != "plugins":  # which tells more
        for record in cli.host.broken:
            note(f"warning: {record.error.message if record.error else record.name} (see `coder plugins list`)")


# ---------------------------------------------------------------- when something goes wrong


def report(error: BaseException) -> int | None:
    """Tell the user and return the exit code; None if this is a bug, which deserves its traceback."""
    error = _cause(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, CoderAgentError):
        logging.getLogger(__name__).debug("this is where it happened", exc_info=error)
        _complain(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        _complain(error.format_message(), f"see `{context.command_path} --help`" if context else None)
        return error.exit_code
    return None


def _cause(error: BaseException) -> BaseException:
    """The one error inside task groups' nested groups, if all that is in there may be shown to a user."""
    leaves = _leaves(error)
    for kind in (KeyboardInterrupt, CoderAgentError):
        if all(isinstance(leaf, (KeyboardInterrupt, CoderAgentError)) for leaf in leaves):
            found = [leaf for leaf in leaves if isinstance(leaf, kind)]
            if found:
                return found[0]
    return error


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _complain(message: str, hint: str | None) -> None:
    text = " ".join(redact(message).split())
    print(f"error: {text}", file=sys.stderr)
    if hint:
        print(f"hint: {' '.join(redact(hint).split())}", file=sys.stderr)


def _open_missing_streams() -> None:
    """``coder list >&-``: print needs something to print to, and the number must not go to the next socket."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _stdout_is_lost() -> int:
    """``coder list | head -1``: nobody reads on; or the disk is full. Point stdout elsewhere, or Python complains once
    more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1

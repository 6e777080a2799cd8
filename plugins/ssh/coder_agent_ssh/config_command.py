"""`coder config-ssh`: parse, ask the server, show the difference, write."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, note, print_json
from coder_agent.errors import ApiError, ConfigError
from coder_agent.http import ApiClient

from .config_file import ConfigFile
from .config_section import Options, Program, Section, Split, describe, parse_option
from .ssh_command import Wait

DEFAULT_PREFIX = "coder."
"""Where a server does not say (coder cli/configssh.go)."""


def config_ssh(
    ctx: typer.Context,
    ssh_config_file: Annotated[Path, typer.Option(envvar="CODER_SSH_CONFIG_FILE", help="the file to write to")] = Path(
        "~/.ssh/config"
    ),
    ssh_option: Annotated[
        list[str] | None,
        typer.Option(
            "--ssh-option", "-o", envvar="CODER_SSH_CONFIG_OPTS", metavar="NAME=VALUE", help="add an option; repeatable"
        ),
    ] = None,
    ssh_host_prefix: Annotated[
        str,
        typer.Option(
            envvar="CODER_CONFIGSSH_SSH_HOST_PREFIX", help="host names begin with this; the server's unless given"
        ),
    ] = "",
    hostname_suffix: Annotated[
        str,
        typer.Option(
            envvar="CODER_CONFIGSSH_HOSTNAME_SUFFIX", help="host names end with this; the server's unless given"
        ),
    ] = "",
    wait: Annotated[
        Wait, typer.Option(envvar="CODER_CONFIGSSH_WAIT", help="for agents that are not connected; auto: yes")
    ] = Wait.AUTO,
    use_previous_options: Annotated[
        bool,
        typer.Option("--use-previous-options", envvar="CODER_SSH_USE_PREVIOUS_OPTIONS", help="those of the last run"),
    ] = False,
    coder_binary_path: Annotated[
        str, typer.Option(envvar="CODER_SSH_CONFIG_BINARY_PATH", help="the program that ssh shall run")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", envvar="CODER_SSH_DRY_RUN", help="only show what would change")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    output: Annotated[Output, typer.Option("--output", help="table for people, json for programs")] = Output.TABLE,
) -> None:
    """Let ssh, scp, sftp, rsync, git and editors reach workspaces by name.

    Writes one section into ~/.ssh/config, after showing it; everything else in the file stays as it is.
    """
    cli: Cli = ctx.obj
    file = ConfigFile.read(ssh_config_file)
    split = Split.of(file.content, str(file.path))
    asked = Options("" if wait is Wait.AUTO else wait.value, ssh_host_prefix, hostname_suffix, tuple(ssh_option or ()))
    options = _choose(asked, split.remembered(), use_previous=use_previous_options, ask=not (yes or dry_run))
    for option in options.ssh_options:
        parse_option(option)
    server = anyio.run(_ask_server, ApiClient(cli.url(), cli.token(), cli.dial_options()))
    section = make_section(options, server, _program(cli, coder_binary_path))
    content = split.with_section(section)
    changed = content != file.content
    if changed:
        note(difference(file.content, content, str(file.path)))
    written = changed and not dry_run and (yes or _confirm(file.path))
    if written:
        file.replace(content)
    _report(file, section, output, changed=changed, written=written)
    if changed and not written and not dry_run:
        raise typer.Exit(1)


def make_section(options: Options, server: dict[str, Any], program: Program) -> Section:
    """What the server says, under what the user asked for."""
    prefix = options.ssh_host_prefix or server.get("hostname_prefix") or DEFAULT_PREFIX
    suffix = (options.hostname_suffix or server.get("hostname_suffix") or "").strip(".")
    for word in (prefix, suffix):
        if any(character.isspace() or character in "*?!,\"'%#" or not character.isprintable() for character in word):
            raise ConfigError(f"{word!r} cannot be a part of host names")
    server_options = [
        parse_option(f"{name} {value}") for name, value in (server.get("ssh_config_options") or {}).items()
    ]
    return Section(program, options, prefix, suffix, tuple(server_options))


def difference(old: bytes, new: bytes, name: str) -> str:
    """What changes, as a unified diff; bytes that are no text are shown as such."""
    before, after = _shown(old), _shown(new)
    changes = difflib.unified_diff(before, after, name, f"{name} (new)", lineterm="")
    return "\n".join(changes) or f"{name}: only line ends change"


def _shown(content: bytes) -> list[str]:
    return [line.decode("utf-8", "backslashreplace").rstrip("\r") for line in content.split(b"\n")]


def _choose(asked: Options, remembered: Options | None, *, use_previous: bool, ask: bool) -> Options:
    if use_previous:
        return remembered or asked
    if remembered is None or remembered == asked or asked != Options():
        return asked
    if ask and sys.stdin.isatty():
        note(f"Options of the last run: {describe(remembered.lines())}")
        return remembered if typer.confirm("Use them again?", default=True, err=True) else asked
    note(f"Not used again: {describe(remembered.lines())} (--use-previous-options would)")
    return asked


async def _ask_server(api: ApiClient) -> dict[str, Any]:
    try:
        document: dict[str, Any] = await api.get("/api/v2/deployment/ssh")
    except ApiError as exc:
        if exc.status != 404:
            raise
        return {}
    return document


def _program(cli: Cli, given: str) -> Program:
    path = given or sys.argv[0]
    if not given and os.path.basename(path) != "coder":
        path = shutil.which("coder") or path
    words = [os.path.abspath(os.path.expanduser(path)), "--global-config", str(cli.session.directory.absolute())]
    if config := cli.flags.get("config"):
        words += ["--config", os.path.abspath(str(config))]
    return Program(tuple(words))


def _confirm(path: Path) -> bool:
    return typer.confirm(f"Write this to {path}?", default=True, err=True)


def _report(file: ConfigFile, section: Section, output: Output, *, changed: bool, written: bool) -> None:
    hosts = [f"{section.prefix}<workspace>"] + ([f"<workspace>.{section.suffix}"] if section.suffix else [])
    if output is Output.JSON:
        backup = str(file.backup) if written and file.exists else None
        print_json({"file": str(file.path), "changed": changed, "written": written, "backup": backup, "hosts": hosts})
    elif not changed:
        print(f"{file.path} is up to date.")
    elif written:
        kept = f" The file as it was: {file.backup}" if file.exists else ""
        print(f"{file.path} is written.{kept}")
        print(f"Now: ssh {hosts[0]}")

"""The headers that a user adds to every request: those that are fixed, and those that a program prints.

The program is for gateways in front of a server that want a fresh token: it prints lines ``Name=value``. As stock Coder
does, it is run by the shell and finds the server's URL in CODER_URL; unlike there, who runs for weeks asks it again, at
a new connection, once the last answer is FRESH_FOR old.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

import anyio

from ..errors import ConfigError
from ..hooks.interfaces import DialOptions

TIMEOUT = 10.0
"""Seconds for the program: less than any login to a server may take."""
FRESH_FOR = 60.0
"""Seconds for which an answer is used again. Gateways' tokens live for minutes at least."""
MAX_OUTPUT = 64 << 10
"""Bytes of output read: no server accepts so many headers."""
_HINT = "it must print lines like Name=value and end with exit code 0; set with --header-command"


class _Command:
    """One command line, asked by one at a time."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.headers: Mapping[str, str] = {}
        self.asked_at = float("-inf")


_commands: dict[tuple[str, str], _Command] = {}


async def headers_of(options: DialOptions) -> Mapping[str, str]:
    """The headers for a request that is about to be made; those printed win over fixed ones of the same name.

    Raises ConfigError, which says what the program did wrong and never what it printed.
    """
    if not options.header_command:
        return options.headers
    command = _commands.setdefault((options.header_command, options.server_url), _Command())
    async with command.lock:
        if anyio.current_time() - command.asked_at >= FRESH_FOR:
            command.headers = parse_headers(await _run(options.header_command, options.server_url))
            command.asked_at = anyio.current_time()
    names = {name.lower() for name in command.headers}
    return {**{name: value for name, value in options.headers.items() if name.lower() not in names}, **command.headers}


def parse_headers(output: bytes) -> dict[str, str]:
    """``Name=value`` per line; empty lines are skipped. Raises ConfigError naming the line, not what is in it."""
    try:
        text = output.decode()
    except UnicodeDecodeError:
        raise ConfigError("the header command printed something that is not UTF-8 text", hint=_HINT) from None
    headers = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, separator, value = line.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"line {number} that the header command printed is not Name=value", hint=_HINT)
        headers[name.strip()] = value.strip()
    return headers


async def _run(command: str, server_url: str) -> bytes:
    environ = {**os.environ, **({"CODER_URL": server_url} if server_url else {})}
    shell = ["cmd.exe", "/c", command] if os.name == "nt" else ["/bin/sh", "-c", command]
    try:
        with anyio.fail_after(TIMEOUT):
            # Its stderr is the user's: that is where it says why it fails, or asks to sign in.
            done = await anyio.run_process(
                shell, env=environ, check=False, stdin=subprocess.DEVNULL, stderr=None, start_new_session=True
            )
    except TimeoutError:
        raise ConfigError(f"the header command did not end within {TIMEOUT:g} s", hint=_HINT) from None
    except OSError as exc:
        raise ConfigError(f"the header command cannot be run: {exc.strerror or exc}", hint=_HINT) from exc
    if done.returncode != 0:
        raise ConfigError(f"the header command failed with exit code {done.returncode}", hint=_HINT)
    if len(done.stdout) > MAX_OUTPUT:
        raise ConfigError(f"the header command printed more than {MAX_OUTPUT >> 10} KiB", hint=_HINT)
    return done.stdout

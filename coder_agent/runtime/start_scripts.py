"""The scripts of a template, which a workspace's agent runs when it starts: what they say goes to the server, line by
line, and so does how they ended. Our own servers have none; a stock one starts a workspace's programs by them.

Source: coder agent/agentscripts/agentscripts.go, agent/agentssh/agentssh.go (CreateCommand).
"""

from __future__ import annotations

import codecs
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import anyio
import anyio.abc

log = logging.getLogger(__name__)

PIPE_PATIENCE = 10.0
"""Seconds after a script's end for what it has left running to close its output; then nobody reads it any more.
Source: agentscripts.go (WaitDelay)."""
MAX_LINE = 4096
"""Characters of a line without an end; more goes on in the next."""
CHUNK = 1 << 14
"""Bytes read at once."""
SECRETS = ("CODER_AGENT_TOKEN", "CODER_AGENT_TOKEN_FILE")
"""Of our own environment; scripts run as the workspace's programs do, which have no use for them."""
CANNOT_RUN = 255
"""Exit code of a script that could not be started. Source: agentscripts.go (run)."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script. Ids are 16 bytes; `timeout` in seconds, 0 = none."""

    id: bytes
    log_source: bytes
    name: str
    text: str
    timeout: float = 0.0


class Outcome(IntEnum):
    """How a script ended; the numbers are those of the wire (agent.proto, Timing.Status)."""

    OK = 0
    FAILED = 1
    TIMED_OUT = 2
    LEFT_OPEN = 3


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a script; times are Unix seconds."""

    script: Script
    began: float
    ended: float
    exit_code: int
    outcome: Outcome


class ScriptSink(Protocol):
    """Who hears of scripts; calls are quick."""

    def script_said(self, source: bytes, lines: Sequence[str], *, error: bool) -> None: ...

    def script_ended(self, ending: Ending) -> None: ...


async def run_scripts(
    scripts: Sequence[Script], sink: ScriptSink, directory: str, environment: Mapping[str, str]
) -> list[Ending]:
    """Run all at once, until each has ended. What they leave running in the background stays."""
    endings: list[Ending] = []

    async def run(script: Script) -> None:
        ending = await _run(script, sink, directory, environment)
        log.log(
            logging.INFO if ending.outcome in (Outcome.OK, Outcome.LEFT_OPEN) else logging.WARNING,
            "script %s: %s, exit code %d", script.name, ending.outcome.name.lower(), ending.exit_code,
        )  # fmt: skip
        sink.script_ended(ending)
        endings.append(ending)

    async with anyio.create_task_group() as tasks:
        for script in scripts:
            tasks.start_soon(run, script)
    return endings


async def _run(script: Script, sink: ScriptSink, directory: str, environment: Mapping[str, str]) -> Ending:
    began = time.time()
    with ExitStack() as pipes:
        out, err = _Pipe(pipes), _Pipe(pipes)
        try:
            process = await anyio.open_process(
                script_command(script.text, variables := script_environment(environment)),
                stdin=subprocess.DEVNULL,
                stdout=out.writing,
                stderr=err.writing,
                cwd=_place(directory),
                env=variables,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            sink.script_said(script.log_source, [f"cannot be started: {exc}"], error=True)
            return Ending(script, began, time.time(), CANNOT_RUN, Outcome.FAILED)
        out.close_writing()
        err.close_writing()
        try:
            async with anyio.create_task_group() as readers:
                readers.start_soon(_read, out.reading, script, sink, False)
                readers.start_soon(_read, err.reading, script, sink, True)
                with anyio.move_on_after(script.timeout or None) as patience:
                    await process.wait()
                if patience.cancelled_caught:
                    _kill(process)
                    await process.wait()
                readers.cancel_scope.deadline = anyio.current_time() + PIPE_PATIENCE
        finally:
            if process.returncode is None:
                _kill(process)
            with anyio.CancelScope(shield=True):
                await process.aclose()
    code = process.returncode or 0
    if patience.cancelled_caught:
        outcome = Outcome.TIMED_OUT
    elif code != 0:
        outcome = Outcome.FAILED
    else:
        outcome = Outcome.LEFT_OPEN if readers.cancel_scope.cancelled_caught else Outcome.OK
    return Ending(script, began, time.time(), code if code >= 0 else 128 - code, outcome)


class _Pipe:
    """A pipe whose reading end belongs to `exits`. Not the event loop's own: with those, to wait for a process may
    mean to wait for all that it has left running (CPython issue 119710)."""

    def __init__(self, exits: ExitStack) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        exits.callback(os.close, self.reading)
        self._close_writing = exits.enter_context(ExitStack())
        self._close_writing.callback(os.close, self.writing)

    def close_writing(self) -> None:
        """The child has it."""
        self._close_writing.close()


def _place(directory: str) -> str:
    return directory if os.path.isdir(directory) else os.path.expanduser("~")


async def _read(reading: int, script: Script, sink: ScriptSink, error: bool) -> None:
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while True:
        await anyio.wait_readable(reading)
        chunk = os.read(reading, CHUNK)
        *whole, rest = (rest + decoder.decode(chunk, final=not chunk)).split("\n")
        lines = [piece for line in whole for piece in _pieces(line)]
        *begun, rest = _pieces(rest)
        lines += begun
        if not chunk and rest:
            lines.append(rest)
        if lines:
            sink.script_said(script.log_source, [line.rstrip("\r") for line in lines], error=error)
        if not chunk:
            return


def _pieces(line: str) -> list[str]:
    """A line, as several if it is too long; at least one."""
    return [line[at : at + MAX_LINE] for at in range(0, max(len(line), 1), MAX_LINE)]


def _kill(process: anyio.abc.Process) -> None:
    """It and what it has started, which is a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def script_command(text: str, environment: Mapping[str, str]) -> list[str]:
    """The words that run a script: the interpreter of its first line if that names one, else the user's shell."""
    first = text.lstrip().partition("\n")[0].strip()
    words: list[str] = []
    if first.startswith("#!"):
        try:
            words = shlex.split(first[2:])
        except ValueError:
            words = []
        if words and os.path.basename(words[0]) == "env":
            words = [word for word in words[1:] if word != "-S"]
    return [*(words or [environment.get("SHELL") or "/bin/sh"]), "-c", text]


def script_environment(environment: Mapping[str, str], base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our own environment without secrets, and the template's, in which variables of ours are replaced."""
    inherited = os.environ if base is None else base
    variables = {name: value for name, value in inherited.items() if name not in SECRETS}
    return {**variables, **{name: os.path.expandvars(value) for name, value in environment.items()}, "CODER": "true"}

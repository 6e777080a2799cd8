"""Programs under test: started, listened to, waited for with a deadline, and ended by their id.

with run_program("coder", "server", env=env) as server:
    url = server.wait_for(r"Started HTTP listener at (\\S+)")[1]
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .netns import Host, stop

PATIENCE = 90.0
"""Seconds to wait for what must come: nothing is gained by waiting less, and a busy machine is slow."""
OUTPUT_LIMIT = 4 << 20
"""Characters kept of what a program says; the end of it."""


class Program:
    """A running process. What it writes, to stdout or stderr, is collected as text."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self.process = process
        self.name = name
        self._output = ""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, name=f"output of {name}")
        self._reader.start()

    @property
    def output(self) -> str:
        """All it wrote so far."""
        return self._output

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """The first match of `pattern` (multi-line) in its output. Raises AssertionError with the output if none comes
        in time, or the program ends without it."""
        compiled = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                if (match := compiled.search(self._output)) is not None:
                    return match
                if self._ended or not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(f"{self.name} never said {pattern!r}, but:\n{self._output[-4000:]}")

    def event(self, name: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The facts of the first event `name` that the program told (testing/node_program.py)."""
        line = self.wait_for(rf'^\{{"event": "{re.escape(name)}".*\}}$', timeout)[0]
        facts: dict[str, Any] = json.loads(line)
        return facts

    def events(self, name: str) -> list[dict[str, Any]]:
        """The facts of all its events `name` so far."""
        lines = re.findall(rf'^\{{"event": "{re.escape(name)}".*\}}$', self._output, re.MULTILINE)
        return [json.loads(line) for line in lines]

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code. Raises AssertionError with its output if it does not end in time."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s:\n{self._output[-4000:]}") from None
        self._reader.join(timeout)
        return code

    def stop(self) -> str:
        """End it, if it has not ended by itself. Returns all that it wrote."""
        stop(self.process)
        self._reader.join(PATIENCE)
        return self._output

    def _collect(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        with stream:
            while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]  # a pipe is a BufferedReader
                with self._changed:
                    self._output = (self._output + chunk.decode(errors="replace"))[-OUTPUT_LIMIT:]
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def run_program(
    *command: str, host: Host | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Program]:
    """Run a program, in a namespace if `host` is given, until the block ends. `env` is its whole environment."""
    where = [] if host is None else ["ip", "netns", "exec", host.name]
    process = subprocess.Popen(
        [*where, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        cwd=cwd,
    )
    program = Program(process, Path(command[0]).name)
    try:
        yield program
    finally:
        program.stop()

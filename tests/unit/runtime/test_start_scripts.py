"""The scripts of a template, by real shells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from coder_agent.runtime import start_scripts
from coder_agent.runtime.start_scripts import (
    MAX_LINE,
    Ending,
    Outcome,
    Script,
    run_scripts,
    script_command,
    script_environment,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Sink:
    """Keeps what it hears."""

    said: list[tuple[bytes, str, bool]] = field(default_factory=list)
    ended: list[Ending] = field(default_factory=list)

    def script_said(self, source: bytes, lines: Sequence[str], *, error: bool) -> None:
        self.said += [(source, line, error) for line in lines]

    def script_ended(self, ending: Ending) -> None:
        self.ended.append(ending)

    @property
    def lines(self) -> list[str]:
        return [line for _, line, _ in self.said]


def script(text: str, timeout: float = 0.0) -> Script:
    return Script(b"i" * 16, b"s" * 16, "hello", text, timeout)


async def run(*scripts: Script, directory: str = "", **environment: str) -> Sink:
    sink = Sink()
    with anyio.fail_after(60):
        endings = await run_scripts(scripts, sink, directory, environment)
    assert endings == sink.ended
    return sink


async def test_what_a_script_says_and_how_it_ends(tmp_path: Path) -> None:
    sink = await run(script("pwd; echo $A; echo wrong >&2; printf end; exit 3"), directory=str(tmp_path), A="b")
    assert [line for line, error in ((line, error) for _, line, error in sink.said) if not error] == [
        str(tmp_path),
        "b",
        "end",
    ]
    assert [line for _, line, error in sink.said if error] == ["wrong"]
    assert {source for source, _, _ in sink.said} == {b"s" * 16}
    (ending,) = sink.ended
    assert (ending.exit_code, ending.outcome) == (3, Outcome.FAILED)
    assert ending.began <= ending.ended


async def test_scripts_run_at_the_same_time(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sink = await run(script(f"cat {fifo}"), script(f"echo met > {fifo}"))
    assert sink.lines == ["met"]
    assert [ending.outcome for ending in sink.ended] == [Outcome.OK, Outcome.OK]


async def test_one_that_takes_too_long_is_ended_with_what_it_started() -> None:
    sink = await run(script("sleep 1000 & sleep 1000", timeout=0.1))
    assert (sink.ended[0].exit_code, sink.ended[0].outcome) == (128 + 9, Outcome.TIMED_OUT)


async def test_what_stays_in_the_background_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(start_scripts, "PIPE_PATIENCE", 0.1)
    sink = await run(script("sleep 1000 & echo $! > pid"), directory=str(tmp_path))
    os.kill(int((tmp_path / "pid").read_text()), 9)  # it is still there
    assert (sink.ended[0].exit_code, sink.ended[0].outcome) == (0, Outcome.LEFT_OPEN)


async def test_one_that_cannot_be_started() -> None:
    sink = await run(script("#!/nowhere/interpreter\necho hello"))
    assert (sink.ended[0].exit_code, sink.ended[0].outcome) == (255, Outcome.FAILED)
    assert "/nowhere/interpreter" in sink.lines[0]


async def test_a_signal_is_told_as_shells_tell_it() -> None:
    sink = await run(script("kill -TERM $$"))
    assert sink.ended[0].exit_code == 128 + 15


@pytest.mark.parametrize("chunk", [7, 1 << 16], ids=["in-pieces", "at-once"])
async def test_lines_are_bounded_and_junk_is_told_as_such(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(start_scripts, "CHUNK", chunk)
    sink = await run(script(r"a=$(head -c 5000 /dev/zero | tr '\0' x); printf '%s\377\r\nlast' $a"))
    assert [len(line) for line in sink.lines[:-1]] == [MAX_LINE, 5001 - MAX_LINE]
    assert sink.lines[-2].endswith("x\ufffd")
    assert sink.lines[-1] == "last"


async def test_a_script_ends_with_its_agent(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    waiting = script(f"exec 3>{fifo}; echo begun >&3; sleep 1000")
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_scripts, [waiting], Sink(), "", {})
                await anyio.wait_readable(reading)
                assert os.read(reading, 100) == b"begun\n"
                tasks.cancel_scope.cancel()
            await anyio.wait_readable(reading)
        assert os.read(reading, 100) == b"", "nobody has it open any more: the shell and its child are gone"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo hello", ["/bin/zsh"]),
        ("#!/bin/bash -e\nx", ["/bin/bash", "-e"]),
        ("\n#!/usr/bin/env python3\nx", ["python3"]),
        ("#!/usr/bin/env -S perl -w\nx", ["perl", "-w"]),
        ("#!'\nx", ["/bin/zsh"]),
        ("#!\nx", ["/bin/zsh"]),
    ],
    ids=["shell", "flags", "env", "env-S", "quote", "empty"],
)
def test_the_first_line_names_the_interpreter(text: str, words: list[str]) -> None:
    assert script_command(text, {"SHELL": "/bin/zsh"}) == [*words, "-c", text]


def test_scripts_are_told_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/srv")
    ours = {"CODER_AGENT_TOKEN": "secret", "CODER_AGENT_TOKEN_FILE": "f", "PATH": "/bin"}
    assert script_environment({"A": "$PLACE/x"}, ours) == {"PATH": "/bin", "A": "/srv/x", "CODER": "true"}

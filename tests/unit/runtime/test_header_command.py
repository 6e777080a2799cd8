"""Headers that a program prints: what is read, when it is asked again, and what is said when it fails."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from coder_agent.errors import ConfigError
from coder_agent.hooks import DialOptions
from coder_agent.runtime import header_command
from coder_agent.runtime.header_command import headers_of, parse_headers

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name == "nt", reason="the commands are written for sh")]


def test_lines_are_headers_and_a_value_may_hold_anything() -> None:
    assert parse_headers(b"A=1\n\nX-Token = a=b==  \r\n") == {"A": "1", "X-Token": "a=b=="}
    assert parse_headers(b"") == {}


@pytest.mark.parametrize("output", [b"A=1\nhunter2\n", b"=hunter2", b"\xff\xfehunter2"])
def test_other_output_is_refused_and_not_repeated(output: bytes) -> None:
    with pytest.raises(ConfigError, match="header command") as caught:
        parse_headers(output)
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


async def test_printed_headers_win_over_fixed_ones_of_the_same_name() -> None:
    options = DialOptions({"x-token": "old", "X-Team": "blue"}, header_command="echo X-Token=new")
    assert await headers_of(options) == {"X-Team": "blue", "X-Token": "new"}


async def test_the_program_finds_the_server_s_url() -> None:
    options = DialOptions(header_command='echo "X-Url=$CODER_URL"', server_url="https://coder.example")
    assert await headers_of(options) == {"X-Url": "https://coder.example"}


async def test_it_is_asked_once_a_minute_by_however_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    options = DialOptions(header_command=f"echo run >> {log}; echo A=1")
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(headers_of, options)
    assert log.read_text() == "run\n"
    monkeypatch.setattr(header_command, "FRESH_FOR", 0.0)
    await headers_of(options)
    assert log.read_text() == "run\nrun\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo secret=hunter2; exit 3", "failed with exit code 3"),
        ("no-such-program-anywhere 2>/dev/null", "failed with exit code 127"),
        ("echo hunter2", "line 1 that the header command printed is not Name=value"),
        ("head -c 70000 /dev/zero", "printed more than 64 KiB"),
        ("exec sleep 60", "did not end within 0.2 s"),
    ],
)
async def test_every_failure_is_a_sentence(command: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_command, "TIMEOUT", 0.2 if "sleep" in command else 10.0)
    with pytest.raises(ConfigError) as caught:
        await headers_of(DialOptions(header_command=command))
    assert words in caught.value.message
    assert "--header-command" in (caught.value.hint or "")
    assert "hunter2" not in caught.value.message


async def test_without_one_nothing_is_run() -> None:
    assert await headers_of(DialOptions({"A": "1"})) == {"A": "1"}

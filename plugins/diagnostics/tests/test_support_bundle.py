"""The support bundle: what fails costs itself only, secrets stay out, and a disk that is full leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from pathlib import Path

import anyio
import pytest
from coder_agent_diagnostics.bundle import collect as collecting
from coder_agent_diagnostics.bundle.archive import write_archive
from coder_agent_diagnostics.bundle.collect import Collected, as_text, collect, safe_name
from coder_agent_diagnostics.log_tail import LINES, LONGEST, LogTail

from coder_agent.errors import ConfigError, PeerUnreachable
from coder_agent.hooks.diagnostics import Diagnostic

pytestmark = pytest.mark.anyio
KEY = "AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB"


async def fine() -> object:
    return {"answer": 42}


async def refused() -> object:
    raise PeerUnreachable("nobody is there", hint="look elsewhere")


async def broken() -> object:
    raise ZeroDivisionError("bug of a plugin")


async def endless() -> object:
    await anyio.sleep_forever()
    raise AssertionError


async def test_what_fails_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TIMEOUT", 0.05)
    all_of_them = {"d/fine.json": fine, "a/refused": refused, "c/broken": broken, "b/endless": endless}
    files = await collect([Diagnostic(name, "", function) for name, function in all_of_them.items()])
    assert [one.name for one in files] == ["a/refused", "b/endless", "c/broken", "d/fine.json"]
    assert [one.problem for one in files] == [
        "nobody is there (look elsewhere)",
        "given up after 0.05 s",
        "ZeroDivisionError: bug of a plugin",
        "",
    ]
    assert files[0].text == "not collected: nobody is there (look elsewhere)\n"
    assert json.loads(files[3].text) == {"answer": 42}


@pytest.mark.parametrize(
    "value",
    [
        f"GET / with Coder-Session-Token: {KEY}",
        {"session_token": KEY, "nested": [{"Password": KEY}, {"derp_mesh_key": KEY}]},
        {"text": f"https://user:{KEY}@proxy"},
        f"privkey:{'ab' * 32} and {KEY}",
    ],
    ids=["header", "fields", "url", "key"],
)
def test_secrets_stay_out(value: object) -> None:
    text = as_text(value)
    assert "BBBBBBBB" not in text
    assert "ab" * 32 not in text
    assert "*****" in text


def test_what_is_no_secret_stays() -> None:
    document = {"name": "dev", "count": 3, "tokens": 7, "token": None, "when": Path("x")}
    assert json.loads(as_text(document)) == {"name": "dev", "count": 3, "tokens": 7, "token": None, "when": "x"}


def test_a_large_file_is_cut() -> None:
    text = as_text("é" * collecting.MAX_FILE)
    assert len(text.encode()) < collecting.MAX_FILE + 100
    assert text.endswith("cut here: the file was larger\n")


@pytest.mark.parametrize(
    ("name", "safe"), [("a/b.json", "a/b.json"), ("../../etc/x", "etc/x"), ("/abs", "abs"), ("", "unnamed.txt")]
)
def test_names_lead_nowhere_else(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_the_archive_is_for_its_maker(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    size = write_archive(path, [Collected("a/b.txt", "text\n")])
    assert path.stat().st_size == size
    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as archive:
        assert archive.read("a/b.txt") == b"text\n"
    assert os.listdir(tmp_path) == ["x.zip"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_archive(tmp_path / "x.zip", [Collected("a", "b")])
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_archive(tmp_path / "missing" / "x.zip", [])


def test_the_log_tail_is_bounded_and_clean() -> None:
    tail = LogTail()
    for number in range(LINES + 50):
        tail.handle(logging.makeLogRecord({"msg": f"line {number} {KEY} {'x' * 3 * LONGEST}", "levelname": "INFO"}))
    lines = tail.text().splitlines()
    assert len(lines) == LINES
    assert "line 50 " in lines[0]
    assert max(map(len, lines)) <= LONGEST
    assert "BBBBBBBB" not in tail.text()

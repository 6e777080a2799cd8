"""Units and Containerfiles: what they start exists, and where systemd is installed it takes them."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from coder_agent.testing.processes import run_program

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SOCKETS = sorted((ROOT / "deploy" / "systemd").glob("*.socket"))
CONTAINERFILES = sorted((ROOT / "deploy" / "container").glob("Containerfile.*"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def service(unit: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, interpolation=None, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text("utf-8"))
    return parser["Service"]


def check_command(words: list[str]) -> None:
    """The program is one of ours, and every flag stands in its help."""
    program, *rest = words
    assert program in ("coder", "coder-agent")
    shown = subprocess.run(
        [Path(sys.executable).with_name(program), rest[0], "--help"], capture_output=True, text=True, timeout=90
    )
    assert shown.returncode == 0, shown.stderr
    for flag in (word for word in rest[1:] if word.startswith("--")):
        assert flag in shown.stdout


def test_there_are_three_of_each() -> None:
    assert [unit.stem for unit in UNITS] == ["coder-agent", "coder-derp", "coder-server"]
    assert [unit.name for unit in SOCKETS] == ["coder-server.socket"]
    assert [file.suffix for file in CONTAINERFILES] == [".agent", ".derp", ".server"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_what_exists_and_are_described(unit: Path) -> None:
    section = service(unit)
    words = shlex.split(section["ExecStart"])
    check_command([Path(words[0]).name, *words[1:]])
    assert section["NoNewPrivileges"] == "yes"
    assert int(section["LimitNOFILE"]) >= 65536
    assert f"`{unit.name}`" in OPERATIONS


@pytest.mark.parametrize("unit", [*UNITS, *SOCKETS], ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    for one in {unit, unit.with_suffix(".service")}:  # a socket is nothing without its service
        copy = tmp_path / one.name
        copy.write_text(re.sub(r"/opt/coder/bin/\S+", sys.executable, one.read_text("utf-8")))
    command = [analyze, "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert unit.stem not in done.stdout + done.stderr, done.stderr


def test_systemd_sees_what_is_wrong(tmp_path: Path) -> None:
    """The judge is awake: a unit with a mistake is refused."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "coder-wrong.service"
    unit.write_text("[Service]\nExecStart=/nowhere/coder server\nNoNewPriviliges=yes\n")
    command = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "NoNewPriviliges" in done.stderr
    assert "/nowhere/coder" in done.stderr


def test_systemd_hands_its_socket_to_the_server(tmp_path: Path) -> None:
    """Nobody runs until somebody connects; then the server answers on the socket that was there before it."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd is not installed")
    place = tmp_path / "http"
    server = [str(Path(sys.executable).with_name("coder")), "server", "--data-dir", str(tmp_path / "data")]
    server += ["--access-url", "http://coder.test", "--stun-address", "disable"]
    command = [activate, f"--listen={place}", "--fdname=http", *server]
    with run_program(*command, env={**os.environ, "HOME": str(tmp_path)}) as program:
        program.wait_for("Listening on")
        assert not (tmp_path / "data").exists()
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(place)), timeout=60) as web:
            assert web.get("http://coder.test/healthz").status_code == 200
            assert web.get("http://coder.test/api/v2/buildinfo").json()["dashboard_url"] == "http://coder.test"


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.suffix[1:])
def test_containerfiles_install_and_start_what_exists(file: Path) -> None:
    text = file.read_text("utf-8")
    (entry,) = re.findall(r"^ENTRYPOINT \[(.+)\]$", text, re.MULTILINE)
    check_command([word.strip().strip('"') for word in entry.split(",")])
    for path in re.findall(r"/src(/[\w./-]+)", text):
        assert (ROOT / path[1:]).exists(), path
    assert re.search(r"^USER [1-9]\d+$", text, re.MULTILINE), "it would run as root"
    known = {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT"}
    for line in text.splitlines():
        assert not line or line.startswith("#") or line.split()[0] in known, line

"""Units and Containerfiles: what they start exists, and where systemd is installed it takes them."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
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
    assert [file.suffix for file in CONTAINERFILES] == [".agent", ".derp", ".server"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_what_exists_and_are_described(unit: Path) -> None:
    section = service(unit)
    words = shlex.split(section["ExecStart"])
    check_command([Path(words[0]).name, *words[1:]])
    assert section["NoNewPrivileges"] == "yes"
    assert int(section["LimitNOFILE"]) >= 65536
    assert f"`{unit.name}`" in OPERATIONS


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/opt/coder/bin/\S+", sys.executable, unit.read_text("utf-8")))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60)
    assert unit.name not in done.stdout + done.stderr, done.stderr


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

"""`coder config-ssh` changes its own section and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from coder_agent_ssh.config_command import difference, make_section
from coder_agent_ssh.config_file import ConfigFile
from coder_agent_ssh.config_section import END, START, Options, Program, Section, Split, parse_option
from hypothesis import assume, given
from hypothesis import strategies as st

from coder_agent.errors import ConfigError

PROGRAM = Program(("/opt/co der/coder", "--global-config", "/a%b"))
SECTION = Section(PROGRAM, Options(), "coder.", "coder")


def test_the_section_as_ssh_reads_it() -> None:
    options = Options(wait="yes", ssh_options=("ForwardAgent=yes", "loglevel QUIET", "SetEnv A=1", "SetEnv B=2"))
    text = Section(PROGRAM, options, "coder.", "", (("ServerAliveInterval", "30"),)).render().decode()
    assert text.startswith(START.decode() + "\n")
    assert text.endswith(END.decode() + "\n")
    host = text[text.index("Host coder.*\n") :].splitlines()
    assert host[1:10] == [
        "\tForwardAgent yes",
        "\tloglevel QUIET",
        "\tSetEnv A=1",
        "\tSetEnv B=2",
        "\tServerAliveInterval 30",
        "\tConnectTimeout 0",
        "\tStrictHostKeyChecking no",
        "\tUserKnownHostsFile /dev/null",
        "\tProxyCommand '/opt/co der/coder' --global-config /a%%b ssh --stdio --ssh-host-prefix coder. --wait yes %h",
    ]


@given(st.binary(max_size=400), st.binary(max_size=200))
def test_not_a_byte_outside_the_section_is_lost(before: bytes, after: bytes) -> None:
    assume(b"-CODER-" not in before + after)
    once = Split.of(before, "f").with_section(SECTION)
    assert once.startswith(before)
    found = Split.of(once + after, "f") if once.endswith(b"\n") else Split.of(once, "f")
    again = found.with_section(Section(PROGRAM, Options(wait="no"), "dev.", ""))
    assert again.startswith(before)
    assert again.endswith(found.after)
    assert found.after in (after, b"")


def test_a_second_run_changes_nothing() -> None:
    once = Split.of(b"Host *\n  User me", "f").with_section(SECTION)
    assert once.startswith(b"Host *\n  User me\n\n# ---")
    assert Split.of(once, "f").with_section(SECTION) == once


def test_lines_of_windows_stay_so() -> None:
    once = Split.of(b"Host a\r\n\tUser b\r\n", "f").with_section(SECTION)
    assert once.count(b"\n") == once.count(b"\r\n")
    assert Split.of(once, "f").with_section(SECTION) == once


def test_options_are_remembered() -> None:
    options = Options("yes", "work.", "lan", ("ForwardAgent=yes", "LogLevel=QUIET"))
    content = Split.of(b"", "f").with_section(Section(PROGRAM, options, "work.", "lan"))
    assert Split.of(content, "f").remembered() == options
    assert Split.of(b"Host x\n", "f").remembered() is None


@pytest.mark.parametrize(
    "lines",
    [[START, END, START, END], [END, START], [START], [END], [START, START, END]],
    ids=["two", "reversed", "open", "close", "nested"],
)
def test_markers_that_do_not_fit_are_refused(lines: list[bytes]) -> None:
    with pytest.raises(ConfigError, match="do not belong together"):
        Split.of(b"Host a\n" + b"\n".join(lines), "f")


@pytest.mark.parametrize("text", ["", "NoValue", "A=b\nHost *", "=x", "Proxy Command=\0"], ids=repr)
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_option(text)


@pytest.mark.parametrize("name", ["a b", "a\nHost *", "*", "!x", "a,b"], ids=repr)
def test_a_server_cannot_write_patterns_into_the_file(name: str) -> None:
    with pytest.raises(ConfigError):
        make_section(Options(), {"hostname_prefix": name}, PROGRAM)
    with pytest.raises(ConfigError):
        make_section(Options(), {"ssh_config_options": {"LogLevel": f"{name}\nProxyCommand x"}}, PROGRAM)


def test_the_difference_shows_bytes_that_are_no_text() -> None:
    shown = difference(b"Host \xff\n", b"Host \xff\nHost b\n", "f")
    assert "\\xff" in shown
    assert "+Host b" in shown


# ---------------------------------------------------------------- the file


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "config"
    real.write_bytes(b"\xff\xfe old")
    real.chmod(0o640)
    link.symlink_to(real)
    file = ConfigFile.read(link)
    file.replace(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert file.backup.read_bytes() == b"\xff\xfe old"
    assert stat.S_IMODE(file.backup.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["config", "dotfiles", "dotfiles.coder-backup"]


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = ConfigFile.read(tmp_path / ".ssh" / "config")
    file.replace(b"new")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert os.listdir(file.path.parent) == ["config"]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"one")
    file = ConfigFile.read(path)
    path.write_bytes(b"two")
    with pytest.raises(ConfigError, match="changed meanwhile"):
        file.replace(b"three")
    assert path.read_bytes() == b"two"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ConfigFile.read(tmp_path)

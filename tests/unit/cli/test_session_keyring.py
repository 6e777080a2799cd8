"""The session in the system's keyring: found again without being told, left when asked, a file where there is none."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null

from coder_agent.cli import keyring_entry
from coder_agent.cli.app import main
from coder_agent.cli.session import MARKER, SessionFiles
from coder_agent.errors import ConfigError


class Memory(KeyringBackend):
    """A keyring that forgets."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.broken = ""

    def _check(self) -> None:
        if self.broken:
            raise OSError(self.broken)

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        del self.entries[service, username]


@pytest.fixture
def memory() -> Iterator[Memory]:
    before, backend = keyring.get_keyring(), Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_token_is_in_the_keyring_and_nowhere_else(memory: Memory, tmp_path: Path) -> None:
    SessionFiles(tmp_path, True).save("https://one", "tell-nobody")
    assert memory.entries == {("coder-v2-credentials", str(tmp_path)): "tell-nobody"}
    assert names(tmp_path) == [MARKER, "url"]
    assert not any("tell-nobody" in path.read_text("utf-8") for path in tmp_path.iterdir())
    assert SessionFiles(tmp_path).token == "tell-nobody", "later commands need no flag"
    assert SessionFiles(tmp_path, False).token == "", "but may refuse it"


def test_the_next_login_stays_where_the_last_one_was(memory: Memory, tmp_path: Path) -> None:
    SessionFiles(tmp_path, True).save("https://one", "first")
    SessionFiles(tmp_path).save("https://two", "second")
    assert list(memory.entries.values()) == ["second"]
    assert names(tmp_path) == [MARKER, "url"]


def test_going_in_takes_the_file_away_and_going_back_the_entry(memory: Memory, tmp_path: Path) -> None:
    SessionFiles(tmp_path).save("https://one", "in-the-file")
    SessionFiles(tmp_path, True).save("https://one", "in-the-keyring")
    assert names(tmp_path) == [MARKER, "url"]
    SessionFiles(tmp_path, False).save("https://one", "back")
    assert names(tmp_path) == ["session", "url"]
    assert memory.entries == {}
    assert stat.S_IMODE((tmp_path / "session").stat().st_mode) == 0o600


def test_two_directories_are_two_logins(memory: Memory, tmp_path: Path) -> None:
    one, two = SessionFiles(tmp_path / "one", True), SessionFiles(tmp_path / "two", True)
    one.save("https://x", "1")
    two.save("https://x", "2")
    one.forget()
    assert (one.token, two.token) == ("", "2")
    assert names(tmp_path / "one") == ["url"]
    one.forget()


@pytest.mark.parametrize("backend", [fail.Keyring, null.Keyring], ids=["none", "switched off"])
def test_without_a_keyring_it_is_the_file_and_the_user_is_told(
    backend: type[KeyringBackend], memory: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring.set_keyring(backend())
    SessionFiles(tmp_path, True).save("https://one", "tell-nobody")
    assert names(tmp_path) == ["session", "url"]
    assert SessionFiles(tmp_path, True).token == "tell-nobody"
    said = capsys.readouterr().err
    assert said == (
        "No keyring: this system offers none to this session. "
        f"The session is kept in the file {tmp_path / 'session'} instead.\n"
    )


def test_without_the_package_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    SessionFiles(tmp_path, True).save("https://one", "t")
    assert "pip install 'coder-agent[keyring]'" in capsys.readouterr().err
    assert SessionFiles(tmp_path).token == "t"


def test_a_keyring_that_breaks_later_is_one_line_and_a_way_out(memory: Memory, tmp_path: Path) -> None:
    SessionFiles(tmp_path, True).save("https://one", "tell-nobody")
    memory.broken = "the wallet is locked\nand more"
    with pytest.raises(ConfigError, match=r"^the keyring cannot be used: the wallet is locked$") as caught:
        _ = SessionFiles(tmp_path).token
    assert "--no-use-keyring" in (caught.value.hint or "")


def test_logging_out_without_the_keyring_is_still_logging_out(
    memory: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SessionFiles(tmp_path, True).save("https://one", "tell-nobody")
    memory.broken = "gone"
    SessionFiles(tmp_path).forget()
    assert SessionFiles(tmp_path).token == ""
    said = capsys.readouterr().err
    assert "could not be taken out of the keyring: the keyring cannot be used: gone" in said
    assert "tell-nobody" not in said


def test_a_keyring_that_never_answers_does_not_hang(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keyring_entry, "PATIENCE", 0.0)

    def wait_for_ever(service: str, username: str) -> None:
        import threading

        threading.Event().wait()

    monkeypatch.setattr(keyring_entry, "_library", lambda: keyring)
    monkeypatch.setattr(memory, "get_password", wait_for_ever)
    (tmp_path / MARKER).touch()
    with pytest.raises(ConfigError, match="did not answer within 0 s"):
        _ = SessionFiles(tmp_path).token


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["config", "show"], None, None),
        (["--use-keyring", "config", "show"], None, True),
        (["config", "show", "--use-keyring"], None, True),
        (["config", "show", "--no-use-keyring"], "true", False),
        (["config", "show"], "true", True),
        (["config", "show"], "false", False),
    ],
    ids=["unset", "flag", "flag behind", "flag wins", "on", "off"],
)
def test_flag_and_environment(
    arguments: list[str], environment: str | None, expected: bool | None,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "config.toml"
    config.write_text("", "utf-8")
    monkeypatch.setenv("CODER_CONFIG_PATH", str(config))
    if environment is not None:
        monkeypatch.setenv("CODER_USE_KEYRING", environment)
    assert main(["--no-plugins", *arguments, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["client"]["use_keyring"]["value"] is expected

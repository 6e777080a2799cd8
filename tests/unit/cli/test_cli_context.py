"""Credentials, URLs, and what is found where."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from coder_agent.cli.context import Cli, checked_url
from coder_agent.cli.session import SessionFiles
from coder_agent.errors import ConfigError


def cli(tmp_path: Path, environ: dict[str, str] | None = None, agent: bool = False, **flags: object) -> Cli:
    flags = {"no_plugins": True, "global_config": str(tmp_path / "session"), **flags}
    return Cli("coder-agent" if agent else "coder", flags, environ or {"CODER_CONFIG_PATH": _empty(tmp_path)})


def _empty(tmp_path: Path) -> str:
    path = tmp_path / "empty.toml"
    path.write_text("", "utf-8")
    return str(path)


def test_flags_win_over_the_environment_over_the_session(tmp_path: Path) -> None:
    SessionFiles(tmp_path / "session").save("https://saved", "saved-token")
    environ = {"CODER_CONFIG_PATH": _empty(tmp_path)}
    assert cli(tmp_path, environ).url() == "https://saved"
    assert cli(tmp_path, environ).token() == "saved-token"
    environ |= {"CODER_URL": "https://variable", "CODER_SESSION_TOKEN": "variable-token"}
    assert cli(tmp_path, environ).url() == "https://variable"
    assert cli(tmp_path, environ).token() == "variable-token"
    assert cli(tmp_path, environ, url="https://flag/").url() == "https://flag"
    assert cli(tmp_path, environ, token="flag-token").token() == "flag-token"


def test_without_a_login_the_error_says_what_to_do(tmp_path: Path) -> None:
    for ask in (cli(tmp_path).url, cli(tmp_path).token):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert "coder login" in (caught.value.hint or "")


def test_the_agent_has_credentials_of_its_own(tmp_path: Path) -> None:
    SessionFiles(tmp_path / "session").save("https://saved", "saved-token")
    with pytest.raises(ConfigError, match="no coder server") as caught:
        cli(tmp_path, agent=True).url()
    assert "CODER_AGENT_URL" in (caught.value.hint or "")
    (tmp_path / "token").write_text("from-a-file\n", "utf-8")
    environ = {
        "CODER_CONFIG_PATH": _empty(tmp_path),
        "CODER_URL": "https://wrong",
        "CODER_AGENT_URL": "https://right",
        "CODER_AGENT_TOKEN_FILE": str(tmp_path / "token"),
    }
    assert cli(tmp_path, environ, agent=True).url() == "https://right"
    assert cli(tmp_path, environ, agent=True).token() == "from-a-file"
    environ["CODER_AGENT_TOKEN"] = "direct"
    assert cli(tmp_path, environ, agent=True).token() == "direct"


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    environ = {"CODER_CONFIG_PATH": _empty(tmp_path), "CODER_AGENT_TOKEN_FILE": "/not/there"}
    with pytest.raises(ConfigError, match="/not/there: No such file"):
        cli(tmp_path, environ, agent=True).token()


def test_headers_become_dial_options(tmp_path: Path) -> None:
    options = cli(tmp_path, header=["A=1", "B=x=y"]).dial_options()
    assert options.headers == {"A": "1", "B": "x=y"}
    assert options.ca_file is None
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        cli(tmp_path, header=["A"]).dial_options()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://coder.example.com/", "https://coder.example.com"),
        ("coder.example.com", "https://coder.example.com"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_urls_are_tidied(given: str, url: str) -> None:
    assert checked_url(given) == url


@pytest.mark.parametrize("given", ["ftp://x", "http://", "https://x:99999", "not a url", "http://[::1"])
def test_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="not the URL"):
        checked_url(given)


def test_session_files_are_private_and_bare(tmp_path: Path) -> None:
    session = SessionFiles.locate(None, {"CODER_CONFIG_DIR": str(tmp_path / "a" / "b")})
    assert (session.url, session.token) == ("", "")
    session.save("https://one", "secret")
    session.save("https://two", "secret2")
    assert (tmp_path / "a" / "b" / "session").read_bytes() == b"secret2"
    assert session.url == "https://two"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "session").stat().st_mode) == 0o600
    assert sorted(path.name for path in session.directory.iterdir()) == ["session", "url"]
    session.forget()
    session.forget()
    assert (session.url, session.token) == ("https://two", "")


def test_a_session_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot write to") as caught:
        SessionFiles(tmp_path / "file" / "deeper").save("https://x", "t")
    assert "--global-config" in (caught.value.hint or "")


def test_the_default_place_is_stock_coders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert SessionFiles.locate(None, {}).directory.name == "coderv2"

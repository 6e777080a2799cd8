"""Names, escapes and environments: what needs no connection."""

from __future__ import annotations

import pytest
from coder_agent_ssh.environment import (
    MAX_COUNT,
    MAX_SENT,
    MAX_VALUE,
    Account,
    Place,
    accepted,
    base_environment,
    directory,
)
from coder_agent_ssh.escapes import Action, Escapes
from coder_agent_ssh.hostkey import host_key
from coder_agent_ssh.hostnames import workspace_of
from coder_agent_ssh.request import Request

from coder_agent.errors import ConfigError

ACCOUNT = Account("me", "/home/me", "/bin/bash")


@pytest.mark.parametrize(
    ("host", "prefix", "suffix", "name"),
    [
        ("dev", "", "", "dev"),
        ("alice/dev.main", "", "", "alice/dev.main"),
        ("alice--dev--main", "", "", "alice/dev.main"),
        ("coder.dev", "coder.", "", "dev"),
        ("coder.dev.main", "coder.", "", "dev.main"),
        ("coder.alice--dev", "coder.", "", "alice/dev"),
        ("dev.coder", "", "coder", "dev"),
        ("main.dev.alice.coder", "", "coder", "alice/dev.main"),
        ("main.dev.me.CODER", "", ".coder", "dev.main"),
        ("dev", "coder.", "coder", "dev"),
    ],
    ids=lambda value: value or "-",
)
def test_host_names(host: str, prefix: str, suffix: str, name: str) -> None:
    assert str(workspace_of(host, prefix, suffix)) == name


@pytest.mark.parametrize("host", ["a.b.c.d.coder", "a.b.coder", ".coder", "-rf", "a--b--c--d", "$(id)"], ids=repr)
def test_what_names_no_workspace(host: str) -> None:
    with pytest.raises(ConfigError):
        workspace_of(host, "", "coder")


@pytest.mark.parametrize(
    ("pieces", "sent", "actions"),
    [
        ([b"ls\r"], b"ls\r", []),
        ([b"~."], b"", [Action.DISCONNECT]),
        ([b"~", b"."], b"", [Action.DISCONNECT]),
        ([b"a~."], b"a~.", []),
        ([b"a\r~."], b"a\r", [Action.DISCONNECT]),
        ([b"~~."], b"~.", []),
        ([b"~x~."], b"~x~.", []),
        ([b"~?~."], b"", [Action.HELP, Action.DISCONNECT]),
        ([b"\n~\x1ax"], b"\nx", [Action.SUSPEND]),
        ([b"~", b"\r", b"~", b"."], b"~\r", [Action.DISCONNECT]),
    ],
    ids=repr,
)
def test_escapes(pieces: list[bytes], sent: bytes, actions: list[Action]) -> None:
    escapes = Escapes()
    answers = [escapes.feed(piece) for piece in pieces]
    assert b"".join(data for data, _ in answers) == sent
    assert [action for _, some in answers for action in some] == actions


def test_the_environment_names_the_workspace_and_hides_the_agents_token() -> None:
    place = Place("dev", "main", "alice", "https://x", "", {"FOO": "bar", "BIN": "plain"})
    inherited = {"CODER_AGENT_TOKEN": "secret", "CODER_PLUGIN_SSH__SHELL": "x", "LANG": "C", "HOME": "/"}
    environment = base_environment(inherited, ACCOUNT, place)
    assert "secret" not in environment.values()
    assert environment["CODER"] == "true"
    assert (environment["CODER_WORKSPACE_NAME"], environment["CODER_WORKSPACE_AGENT_NAME"]) == ("dev", "main")
    assert (environment["HOME"], environment["USER"], environment["SHELL"]) == ("/home/me", "me", "/bin/bash")
    assert (environment["FOO"], environment["LANG"]) == ("bar", "C")
    assert "PLUGIN" not in " ".join(environment)


def test_what_a_client_sends_is_bounded() -> None:
    taken, refused = accepted({b"LANG": b"de_DE", b"LONG": b"x" * (MAX_VALUE + 1), b"A=B": b"1", b"": b"", b"N": b"\0"})
    assert taken == {"LANG": "de_DE"}
    assert refused == ["LONG", "A=B", "", "N"]
    many = {f"V{number}".encode(): b"1" for number in range(MAX_COUNT * 2)}
    assert len(accepted(many)[0]) == MAX_COUNT
    large = {f"V{number}".encode(): b"x" * MAX_VALUE for number in range(100)}
    assert sum(map(len, accepted(large)[0].values())) <= MAX_SENT


def test_bytes_that_are_no_text_pass_through() -> None:
    assert accepted({b"X": b"\xff"})[0]["X"].encode("utf-8", "surrogateescape") == b"\xff"


def test_where_a_session_begins() -> None:
    there = {"/home/me", "/home/me/src", "/srv"}.__contains__
    assert directory(Place(directory="~/src"), ACCOUNT, there) == "/home/me/src"
    assert directory(Place(directory="/srv"), ACCOUNT, there) == "/srv"
    assert directory(Place(directory="/gone"), ACCOUNT, there) == "/home/me"
    assert directory(Place(directory="relative"), ACCOUNT, there) == "/home/me"
    assert directory(Place(), Account("me", "/gone", "/bin/sh"), there) == "/"


def test_the_host_key_is_the_agents_own_and_stays() -> None:
    one, two = host_key("w/a"), host_key("w/b")
    assert one.get_algorithm() == "ssh-ed25519"
    assert one.export_public_key() == host_key.__wrapped__("w/a").export_public_key()
    assert one.export_public_key() != two.export_public_key()


def test_a_request_comes_out_as_it_went_in() -> None:
    request = Request(("fd7a::1", 1), ("fd60::2", 4711), identity="i", environment={"A": "ü"}, client_timeout=1.5)
    assert Request.decode(request.encode()) == request
    for junk in (b"", b"[]", b"{}", b'{"local": 1, "peer": 2}', b'{"local": ["a", 1], "peer": ["b", 2], "x": 1}'):
        with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
            Request.decode(junk)

"""No program ever writes a token, a password or a private key: searched for by value, in all that they say at -v."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

import pytest

from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.testing.deployment import PASSWORD, Deployment, kill

pytestmark = [pytest.mark.slow]
TELL_KEYS = """\
import os
from coder_agent.base import keys
for kind in (keys.NodePrivate, keys.DiscoPrivate):
    def wrap(generate):
        def spy(rng):
            key = generate(rng)
            with open(os.environ["KEYS_GO_TO"], "a") as file:
                file.write(key.secret.hex() + "\\n")
            return key
        return spy
    kind.generate = wrap(kind.generate)
"""
"""A sitecustomize that writes every private key a program makes to a file, so that the test knows what to look for."""


def test_nothing_that_is_said_holds_a_secret(tmp_path: Path) -> None:
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(TELL_KEYS)
    keys = tmp_path / "keys.txt"
    known = {"PYTHONPATH": str(spy), "KEYS_GO_TO": str(keys)}
    said = []
    with Deployment(tmp_path) as place:
        place.extra = known
        server = place.start_server(verbose=True)
        place.sign_in()
        dev = place.create("dev")
        agent = place.start_agent(dev)
        user = place.user
        session = (user.folder / ".config/coderv2/session").read_text()
        for command in (
            ["-v", "ping", "dev", "-n", "2", "--wait", "50ms"],
            ["-v", "speedtest", "dev", "-t", "1s"],
            ["-v", "--token", session, "config", "show"],
            ["-v", "login", place.url, "--email", "alice@example.com", "--password", PASSWORD],
            ["-v", "login", place.url, "--token", session],
            ["-v", "--url", f"http://alice:{PASSWORD}@127.0.0.1:1", "list"],
        ):
            said.append(str(user.coder(*command, env=known)).partition("\n")[2])
        kill(server)  # errors talk most
        place.start_server(verbose=True)
        agent.wait_for(r"lost the connection")
        said.append(str(user.coder("-v", "ping", "dev", "-n", "1", env=known)))
        newer = (user.folder / ".config/coderv2/session").read_text()
        for program in place.programs:
            program.stop()
            said.append(program.output)
    text = "\n".join(said)
    private = keys.read_text().split()
    assert len(private) >= 4, "the spy saw no keys"
    relay = database_secrets(place.server.folder / "data" / "coder.db")
    for secret in (PASSWORD, dev.token, session, newer, *private, *relay):
        assert len(secret) >= 8
        at = text.find(secret)
        assert at < 0, f"a secret was said: …{text[max(0, at - 200) : at]}<here>"


def database_secrets(path: Path) -> list[str]:
    """Whatever in the database looks like a key, as text and as hex."""
    found = []
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f"select * from {table}"):  # names come from the database itself
                found += [value.hex() for value in row if isinstance(value, bytes) and len(value) == 32]
                found += [value for value in row if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)]
    database.close()
    return found


def test_tokens_and_passwords_are_not_in_the_database(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        place.start_server()
        place.sign_in()
        dev = place.create("dev")
        session = (place.user.folder / ".config/coderv2/session").read_text()
    content = b"".join(path.read_bytes() for path in (tmp_path / "server" / "data").iterdir())
    for secret in (PASSWORD, dev.token, dev.token.replace("-", ""), session, session.partition("-")[2]):
        assert secret.encode() not in content
    mode = (tmp_path / "server" / "data" / "coder.db").stat().st_mode
    assert mode & 0o077 == 0, oct(mode)
    for name in ("url", "session"):
        assert (place.user.folder / ".config/coderv2" / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", [NodePrivate, DiscoPrivate])
def test_private_keys_print_redacted(kind: type[NodePrivate] | type[DiscoPrivate]) -> None:
    key = kind.generate(os.urandom)
    for text in (repr(key), str(key), f"{key}", f"{[key]}", repr({"k": key})):
        assert key.secret.hex() not in text
        assert repr(key.secret) not in text

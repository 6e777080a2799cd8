"""`--use-keyring` with a real Secret Service: gnome-keyring on a D-Bus of its own, read by libsecret's secret-tool."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from coder_agent.testing.deployment import PASSWORD, Deployment

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        for name in ("gnome-keyring-daemon", "secret-tool", "dbus-run-session")
    ),
]

ASK = 'secret-tool lookup service coder-v2-credentials username "$CODER_CONFIG_DIR"'
SESSION = f"""
set -eu
printf for-the-test | gnome-keyring-daemon --unlock --components=secrets >/dev/null
coder login "$URL" --email alice@example.com --use-keyring
ls "$CODER_CONFIG_DIR"
coder users list --output json | grep -o '"username": "alice"'
test "$({ASK} | wc -c)" -gt 20 && echo secret-tool finds it
printf '%s\\n' "$({ASK})" > secret
coder logout
{ASK} || echo and now it is gone
ls "$CODER_CONFIG_DIR"
"""


def test_a_session_in_gnome_keyring(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        place.start_server()
        place.sign_in()
        folder = tmp_path / "kept-in-a-keyring"
        runtime = tmp_path / "runtime"
        runtime.mkdir(mode=0o700)
        environment = {
            "URL": place.url,
            "CODER_CONFIG_DIR": str(folder),
            "CODER_PASSWORD": PASSWORD,
            "XDG_RUNTIME_DIR": str(runtime),
        }
        done = place.user.run("dbus-run-session", "--", "sh", "-c", SESSION, env=environment, timeout=90)
        assert done.code == 0, str(done)
        assert done.out.splitlines() == [
            "Welcome to Coder, alice! You're authenticated.",
            "session.keyring",
            "url",
            '"username": "alice"',
            "secret-tool finds it",
            "You are signed out.",
            "and now it is gone",
            "url",
        ]
        secret = (place.user.folder / "secret").read_text("utf-8").strip()
        assert secret not in done.out + done.err + place.transcript()
        assert not any(secret in path.read_text("utf-8", "replace") for path in folder.iterdir())


def test_without_a_bus_it_is_the_file_and_a_sentence(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        place.start_server()
        place.sign_in()
        folder = tmp_path / "kept-in-a-file"
        environment = {
            "CODER_CONFIG_DIR": str(folder),
            "CODER_PASSWORD": PASSWORD,
            "CODER_USE_KEYRING": "true",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path / 'nothing-here'}",
            "XDG_RUNTIME_DIR": str(tmp_path),
        }
        done = place.user.coder("login", place.url, "--email", "alice@example.com", env=environment)
        assert done.code == 0, str(done)
        assert done.err == (
            f"No keyring: this system offers none to this session. The session is kept in the file "
            f"{folder / 'session'} instead.\n"
        )
        assert sorted(os.listdir(folder)) == ["session", "url"]
        assert place.user.coder("list", env=environment).code == 0

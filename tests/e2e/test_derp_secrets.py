"""`coder derp` as its operator runs it: it says no secret, by value, in anything it says; SIGHUP brings new limits."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from coder_agent.testing.deployment import Deployment

MESH = "5ec2e7" * 10 + "abcd"
TOKEN = "open-5esame-of-the-relay"
CONFIG = """
[plugins.transport_derp]
relay_mesh_key = "{mesh}"
relay_client_rate = {rate}
relay_client_burst = 70000

[plugins.derp]
token = "{token}"
"""
QUIET = ("--address", "127.0.0.1:0", "--stun-address", "disable", "--drain-seconds", "0")


def upgrade(port: int, token: str) -> bytes:
    """The first bytes of what the relay answers to somebody who shows `token`."""
    head = f"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Token: {token}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(head.encode())
        return sock.recv(4096)


def test_a_relay_says_no_secret_and_takes_new_limits(tmp_path: Path) -> None:
    config, key = tmp_path / "coder.toml", tmp_path / "relay.key"
    config.write_text(CONFIG.format(mesh=MESH, token=TOKEN, rate=0))
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(CONFIG.format(mesh=MESH[:-2], token=TOKEN, rate=-1))
    short = tmp_path / "short.toml"
    short.write_text(CONFIG.format(mesh=MESH[:-2], token=TOKEN, rate=0))
    derp = ("-v", "--config", str(config), "derp", *QUIET, "--key-file", str(key))
    with Deployment(tmp_path) as place:
        program = place.start(place.server, "coder", *derp, "--mesh-with", "http://127.0.0.1:1/derp")
        port = int(program.wait_for(r"Relaying at http://127.0.0.1:(\d+)/derp").group(1))
        program.wait_for(r"Everybody|key is")
        assert b" 101 " in upgrade(port, TOKEN)[:20]
        assert b" 101 " not in upgrade(port, TOKEN + "x")[:20]
        config.write_text(CONFIG.format(mesh=MESH, token=TOKEN, rate=123_456))
        program.process.send_signal(signal.SIGHUP)
        program.wait_for(r"new clients may send 123456 bytes per second, 70000 at once")
        config.write_text(CONFIG.format(mesh=MESH, token=TOKEN, rate="-5"))
        program.process.send_signal(signal.SIGHUP)
        program.wait_for(r"the old limits stay in force")
        program.stop()
        said = [program.output]
        for arguments in (
            ("-v", "--config", str(config), "derp", "--help"),
            ("-v", "--config", str(config), "config", "show"),
            ("-v", "--config", str(wrong), "derp", *QUIET),
            ("-v", "--config", str(short), "derp", *QUIET),
            ("-v", "--config", str(short), "derp", *QUIET, "--verify-url", "ftp://nobody"),
        ):
            said.append(str(place.user.coder(*arguments)).partition("\n")[2])
    text = "\n".join(said)
    assert "64 hex digits" in text, "the faults were said"
    private = key.read_text().partition("privkey:")[2][:64]
    for secret in (MESH, MESH[:-2], TOKEN, private):
        assert len(secret) > 20
        at = text.find(secret)
        assert at < 0, f"a secret was said: …{text[max(0, at - 200) : at]}<here>"

"""nginx and haproxy that let nobody in without a client certificate, in front of a real `coder server`.

Everything of ours that leaves must show it: the API, the coordination, relays by upgrade and by WebSocket. The front's
own certificate is vouched for by a file in the settings, not by the system.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from coder_agent.testing.deployment import PASSWORD, Deployment, Machine, until

pytestmark = [pytest.mark.foreign]
LOCAL = "127.0.0.1"


class Certificates:
    """The front's certificate, and the authority and certificate of those who may pass, as files."""

    def __init__(self, folder: Path) -> None:
        front, visitors = trustme.CA(), trustme.CA()
        self.authority, self.visitors = folder / "front-ca.pem", folder / "visitors-ca.pem"
        front.cert_pem.write_to_path(self.authority)
        visitors.cert_pem.write_to_path(self.visitors)
        issued = front.issue_cert(LOCAL)
        self.front, self.front_key, self.both = (folder / name for name in ("front.pem", "front.key", "both.pem"))
        issued.cert_chain_pems[0].write_to_path(self.front)
        issued.private_key_pem.write_to_path(self.front_key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.own, self.own_key = folder / "own.pem", folder / "own.key"
        own = visitors.issue_cert("alice@example.com")
        own.cert_chain_pems[0].write_to_path(self.own)
        own.private_key_pem.write_to_path(self.own_key)

    @property
    def environ(self) -> dict[str, str]:
        """What a program of ours is told."""
        return {
            "CODER_CLIENT_TLS_CA_FILE": str(self.authority),
            "CODER_CLIENT_TLS_CERT_FILE": str(self.own),
            "CODER_CLIENT_TLS_KEY_FILE": str(self.own_key),
        }


def nginx(folder: Path, port: int, upstream: int, files: Certificates) -> tuple[str, list[str]]:
    """Without a certificate it answers 400 to every request."""
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  log_format whom '$status $http_upgrade $ssl_client_s_dn'; access_log {folder}/access.log whom; {temporary}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen {LOCAL}:{port} ssl;
    ssl_certificate {files.front}; ssl_certificate_key {files.front_key};
    ssl_client_certificate {files.visitors}; ssl_verify_client on;
    location / {{
      proxy_pass http://{LOCAL}:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $http_host;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
    config = folder / "nginx.conf"
    config.write_text(text)
    return text, ["nginx", "-c", str(config), "-e", "stderr"]


def haproxy(folder: Path, port: int, upstream: int, files: Certificates) -> tuple[str, list[str]]:
    """Without a certificate it ends the TLS connection with an alert."""
    text = f"""
global
  log stderr format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend front
  bind {LOCAL}:{port} ssl crt {files.both} ca-file {files.visitors} verify required alpn h2,http/1.1
  default_backend coder
backend coder
  server one {LOCAL}:{upstream}
"""
    config = folder / "haproxy.conf"
    config.write_text(text)
    return text, ["haproxy", "-db", "-f", str(config)]


PROGRAMS = {"nginx": nginx, "haproxy": haproxy}


@contextmanager
def guarded(program: str, folder: Path) -> Iterator[tuple[Deployment, str, Certificates]]:
    """A server that is reached through a front which wants certificates."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    files = Certificates(folder)
    with socket.create_server((LOCAL, 0)) as probe:
        port = int(probe.getsockname()[1])
    with Deployment(folder) as place:
        url = f"https://{LOCAL}:{port}"
        place.start_server("--access-url", url)
        _, command = PROGRAMS[program](folder, port, place.port, files)
        place.start(Machine(folder / "front"), *command)

        def listens() -> bool | None:
            with socket.socket() as knock:
                return knock.connect_ex((LOCAL, port)) == 0 or None

        until("the front listens", listens)
        yield place, url, files
        assert "Traceback" not in place.transcript()


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_whoever_shows_his_certificate_works_by_relay_and_by_websocket(program: str, tmp_path: Path) -> None:
    with guarded(program, tmp_path) as (place, url, files):
        sign_in = ("login", url, "--first-user-username", "alice", "--first-user-email", "alice@example.com")
        done = place.user.coder(*sign_in, env={**files.environ, "CODER_FIRST_USER_PASSWORD": PASSWORD})
        assert done.code == 0, str(done)
        document = place.user.coder("create", "dev", "-o", "json", env=files.environ).json()
        agent = place.start(
            place.workspace, "coder-agent", "-v", "run",
            env={**files.environ, "CODER_AGENT_URL": url, "CODER_AGENT_TOKEN": document["agent_token"]},
        )  # fmt: skip
        agent.wait_for(r"is up$")
        for force in ("false", "true"):
            env = {**files.environ, "CODER_DERP_FORCE_WEBSOCKETS": force}
            ping = place.user.coder(
                *("--disable-direct-connections", "ping", "dev", "-n", "2", "--wait", "100ms"), env=env
            )
            assert ping.out.count("proxied via DERP(Coder Embedded Relay)") == 2, str(ping)
        assert "falling back" not in agent.output
        if program == "nginx":
            log = (tmp_path / "access.log").read_text().splitlines()
            passed = [line for line in log if "alice@example.com" in line or "trustme" in line]
            assert passed == log, "every request showed the certificate"
            assert {line.split()[1].lower() for line in log} >= {"-", "websocket", "derp"}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_without_it_the_sentence_names_the_certificate(program: str, tmp_path: Path) -> None:
    with guarded(program, tmp_path) as (place, url, files):
        env = {"CODER_CLIENT_TLS_CA_FILE": str(files.authority), "CODER_SESSION_TOKEN": "x"}
        done = place.user.coder("login", url, env=env)
        assert done.code == 1, str(done)
        assert "ertificate" in done.err, str(done)

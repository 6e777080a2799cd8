"""nginx, caddy and haproxy in front of a real `coder server`: each once passing upgrades and once refusing them.

A user and an agent know only the front's address. The coordination needs its WebSocket, so that passes everywhere; what
some fronts refuse is `Upgrade: DERP`, in the ways that are seen in the wild: the header stripped, HTTP 403, a page.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Machine, Registered, until
from coder_agent.testing.netns_deployment import Tls
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.foreign]
LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Site:
    """What a front is to do: listen with TLS at `port`, pass on to `upstream`."""

    port: int
    upstream: int
    tls: Tls
    folder: Path

    @property
    def pem(self) -> Path:
        """Certificate and key in one file."""
        path = self.folder / "both.pem"
        path.write_text(self.tls.certificate.read_text() + self.tls.key.read_text())
        return path


Config = Callable[[Site], str]


def nginx(site: Site, refuse: str, http2: bool = False) -> str:
    """As its manual says for WebSockets; `refuse` is said to `Upgrade: DERP`."""
    refusal = f'if ($http_upgrade ~* "derp") {{ {refuse} }}' if refuse else ""
    temporary = " ".join(
        f"{kind}_temp_path {site.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off; master_process off; pid {site.folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log {site.folder}/access.log; {temporary}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen {LOCAL}:{site.port} ssl{" http2" if http2 else ""};
    ssl_certificate {site.tls.certificate}; ssl_certificate_key {site.tls.key};
    location / {{
      {refusal}
      proxy_pass http://{LOCAL}:{site.upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $http_host;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


def nginx_stripping(site: Site) -> str:
    """Only WebSockets are passed on: of another upgrade, the header is left out."""
    return (
        nginx(site, "")
        .replace(
            "map $http_upgrade $connection_upgrade { default upgrade; '' close; }",
            "map $http_upgrade $connection_upgrade { websocket upgrade; default close; }"
            "map $http_upgrade $passed { websocket websocket; default ''; }",
        )
        .replace("Upgrade $http_upgrade;", "Upgrade $passed;")
    )


def caddy(site: Site, refuse: str) -> str:
    """Its two lines, with our certificate; HTTP/2 is on, as always with caddy."""
    refusal = f"@derp header Upgrade DERP\n  respond @derp {refuse}" if refuse else ""
    return f"""
{{
  admin off
  auto_https disable_redirects
  storage file_system {site.folder}/caddy
}}
https://{LOCAL}:{site.port} {{
  bind {LOCAL}
  tls {site.tls.certificate} {site.tls.key}
  {refusal}
  reverse_proxy {LOCAL}:{site.upstream}
}}
"""


def haproxy(site: Site, refuse: str) -> str:
    """A plain HTTP proxy with TLS; upgrades pass unless forbidden."""
    refusal = f"http-request {refuse} if {{ hdr(Upgrade) -i derp }}" if refuse else ""
    return f"""
global
  log stderr format raw local0
defaults
  mode http
  log global
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend front
  bind {LOCAL}:{site.port} ssl crt {site.pem} alpn h2,http/1.1
  {refusal}
  default_backend coder
backend coder
  server one {LOCAL}:{site.upstream}
"""


def command(program: str, config: Path) -> list[str]:
    if program == "caddy":
        return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
    if program == "haproxy":
        return ["haproxy", "-db", "-f", str(config)]
    return ["nginx", "-c", str(config), "-e", "stderr"]


PASSING: list[tuple[str, str, Config]] = [
    ("nginx", "passes", lambda site: nginx(site, "")),
    ("nginx", "http2", lambda site: nginx(site, "", http2=True)),
    ("caddy", "passes", lambda site: caddy(site, "")),
    ("haproxy", "passes", lambda site: haproxy(site, "")),
]
REFUSING: list[tuple[str, str, Config]] = [
    ("nginx", "403", lambda site: nginx(site, "return 403;")),
    ("nginx", "page", lambda site: nginx(site, "return 200 '<html>Welcome</html>';")),
    ("nginx", "elsewhere", lambda site: nginx(site, "return 302 /login;")),
    ("nginx", "stripped", nginx_stripping),
    ("caddy", "400", lambda site: caddy(site, '"no upgrades here" 400')),
    ("haproxy", "denied", lambda site: haproxy(site, "deny deny_status 403")),
]
NAMES = ("program", "kind", "config")


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Front:
    """A deployment behind a front."""

    place: Deployment
    url: str
    folder: Path
    program: Program
    environ: dict[str, str]

    def coder(self, *arguments: str, **env: str) -> str:
        """What a command printed, which must succeed."""
        done = self.place.user.coder(*arguments, env={**self.environ, **env})
        assert done.code == 0, str(done)
        return done.out + done.err

    def start(self, **env: str) -> Program:
        """Sign in, make a workspace, start its agent."""
        self.coder(
            *("login", self.url, "--first-user-username", "alice", "--first-user-email", "alice@example.com"),
            CODER_FIRST_USER_PASSWORD="S3cure-pass-word",
        )
        dev = self.create()
        agent = self.place.start(
            self.place.workspace, "coder-agent", "-v", "run",
            env={**self.environ, **env, "CODER_AGENT_URL": self.url, "CODER_AGENT_TOKEN": dev.token},
        )  # fmt: skip
        agent.wait_for(r"is up$")
        return agent

    def create(self) -> Registered:
        document = self.place.user.coder("create", "dev", "-o", "json", env=self.environ).json()
        (resource,) = document["latest_build"]["resources"]
        return Registered("dev", resource["agents"][0]["id"], document["agent_token"])


@contextmanager
def behind(program: str, config: Config, folder: Path, *, wait: bool = True) -> Iterator[Front]:
    """A server without TLS, and the front with it: the server's ACCESS_URL is the front's."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    tls, port = Tls.issue(folder, LOCAL), free_port()
    with Deployment(folder) as place:
        url = f"https://{LOCAL}:{port}"
        place.start_server("--access-url", url)
        path = folder / f"{program}.conf"
        path.write_text(config(Site(port, place.port, tls, folder)))
        front = place.start(Machine(folder / "front"), *command(program, path))
        if wait:
            until("the front listens", lambda: answers(port) or None)
        yield Front(place, url, folder, front, {"SSL_CERT_FILE": str(tls.authority)})
        assert "Traceback" not in place.transcript()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOCAL, port)) == 0


def relayed(front: Front) -> str:
    """Work by relay: direct paths are off, or loopback would be one."""
    out = front.coder("--disable-direct-connections", "ping", "dev", "-n", "3", "--wait", "100ms")
    assert out.count("proxied via DERP(Coder Embedded Relay)") == 3, out
    speed = front.coder("--disable-direct-connections", "speedtest", "dev", "-t", "1s")
    assert "Mbits/sec" in speed
    return out


@pytest.mark.parametrize(NAMES, PASSING, ids=[f"{program}-{kind}" for program, kind, _ in PASSING])
def test_a_front_that_passes_upgrades_is_not_noticed(program: str, kind: str, config: Config, tmp_path: Path) -> None:
    with behind(program, config, tmp_path) as front:
        agent = front.start()
        relayed(front)
        assert "WebSocket" not in agent.output


@pytest.mark.parametrize(NAMES, REFUSING, ids=[f"{program}-{kind}" for program, kind, _ in REFUSING])
def test_a_front_that_refuses_upgrades_is_got_through_by_websocket(
    program: str, kind: str, config: Config, tmp_path: Path
) -> None:
    with behind(program, config, tmp_path) as front:
        agent = front.start()
        agent.wait_for("falling back to WebSocket: HTTP (4|200|302)")
        relayed(front)


def test_a_front_that_refuses_is_not_even_asked_with_forced_websockets(tmp_path: Path) -> None:
    with behind("nginx", lambda site: nginx(site, "return 403;"), tmp_path) as front:
        agent = front.start(CODER_DERP_FORCE_WEBSOCKETS="true")
        relayed(front)
        assert "falling back" not in agent.output
        log = (tmp_path / "access.log").read_text()
        assert log.count('"GET /derp HTTP/1.1" 403') <= 2, log  # those of the user, whom nobody told


def test_a_front_with_http2_only_is_explained(tmp_path: Path) -> None:
    """Nothing of ours passes: there are no upgrades in HTTP/2. The sentence names what must be switched on."""
    with behind(
        "haproxy", lambda site: haproxy(site, "").replace("alpn h2,http/1.1", "alpn h2 proto h2"), tmp_path
    ) as front:
        done = front.place.user.coder("login", front.url, env={**front.environ, "CODER_SESSION_TOKEN": "x"})
        assert done.code == 1, str(done)
        assert "HTTP/1.1" in done.err, str(done)

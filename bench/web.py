"""Web apps through the server: small requests beside nginx in front of the same app, a download, many WebSockets."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coder_agent.testing.processes import run_program

from .place import Place, need, wait_until
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

APP = 28081
NGINX = 28443
BASE = f"/@bench/dev/ports/{APP}/"
CONNECTIONS = 16
SOCKETS = 1000
TICKS = os.sysconf("SC_CLK_TCK")


def small(place: Place, plan: Plan) -> Iterator[Row]:
    """Requests for 13 bytes, over TLS, from another machine. The rate is per core: requests per second of the proxy's
    own CPU time, all processes of a proxy counted, the agent's too; the app is the same for both. The latency is of
    one request at a time, beside nginx's."""
    with _app(place), _nginx(place) as nginx:
        server = _pids(place, "server", "coder-agent")
        rates: dict[str, list[float]] = {"ours": [], "nginx": []}
        delays: dict[str, list[float]] = {"ours": [], "nginx": []}
        for _ in range(plan.runs):
            for who, port, target, pids in (("ours", 3443, BASE, server), ("nginx", NGINX, "/", nginx)):
                before = sum(map(_cpu, pids))
                found = _load(place, "small", port, target, str(plan.seconds), str(CONNECTIONS))
                rates[who].append(found["rate"] * plan.seconds / (sum(map(_cpu, pids)) - before))
                delays[who].append(_load(place, "small", port, target, str(plan.seconds), "1")["median_ms"])
        yield Row.of("web_small", "req/s per core", rates["ours"], rates["nginx"], "nginx")
        yield Row.of("web_small", "ms median", delays["ours"], delays["nginx"], "nginx")


def download(place: Place, plan: Plan) -> Iterator[Row]:
    """A gigabyte through the server, beside `coder speedtest --direct` of the same run."""
    size = int(float(os.environ.get("BENCH_GB", "1")) * 1e9)
    with _app(place):
        ours, direct = [], []
        for _ in range(plan.runs):
            ours.append(_load(place, "download", 3443, f"{BASE}big/", str(size))["mbits"])
            direct.append(place.speedtest(plan.seconds, "--direct"))
        yield Row.of("web_download", "Mbit/s", ours, direct, "direct speedtest")


def sockets(place: Place, plan: Plan) -> Iterator[Row]:
    """A thousand WebSockets, held for a minute; each echoes every ten seconds."""
    with _app(place):
        seconds = os.environ.get("BENCH_HOLD", "60")
        found = _load(place, "sockets", 3443, f"{BASE}socket", str(SOCKETS), seconds)
        yield Row.of("web_sockets", "held", [found["held"]])


@contextmanager
def _app(place: Place) -> Iterator[None]:
    """The app in the workspace, reached once through the server: the tunnel is open."""
    with run_program(*place.program("web_load", "serve", str(APP)), host=place.workspace) as app:
        app.event("ready")
        place.start()
        wait_until(lambda: _load(place, "small", 3443, BASE, "0.1", "1")["rate"] > 0, "the app answers")
        yield


@contextmanager
def _nginx(place: Place) -> Iterator[list[int]]:
    """nginx with one worker in front of the same app; yields its processes."""
    folder = place.directory / "nginx"
    folder.mkdir()
    program = need("/usr/sbin/nginx", "nginx-light")
    (folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000; upstream app {{ server 127.0.0.1:{APP}; keepalive 64; }}
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen {place.workspace.address4}:{NGINX} ssl; ssl_certificate {place.directory}/server.pem;
    ssl_certificate_key {place.directory}/key.pem;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
""",
        encoding="utf-8",
    )
    with run_program(program, "-c", str(folder / "nginx.conf"), "-e", "stderr", host=place.workspace) as nginx:
        wait_until(lambda: bool(_children(nginx.process.pid)), "nginx serves")
        wait_until(lambda: _load(place, "small", NGINX, "/", "0.1", "1")["rate"] > 0, "nginx answers")
        yield [nginx.process.pid, *_children(nginx.process.pid)]


def _load(place: Place, what: str, port: int, target: str, *numbers: str) -> dict[str, Any]:
    token = (place.directory / "cli" / "session").read_text(encoding="utf-8").strip() if port != NGINX else ""
    address = place.workspace.address4
    command = place.program("web_load", what, address, str(port), target, token, *numbers)
    done = subprocess.run(
        ["ip", "netns", "exec", place.user.name, *command],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "WEB_CA": str(place.directory / "ca.pem")},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"web_load {what}: exit {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _pids(place: Place, *programs: str) -> list[int]:
    """Processes of ours in the workspace's namespace, by a word of their command line."""
    listed = subprocess.run(["ip", "netns", "pids", place.workspace.name], capture_output=True, text=True, check=True)
    found = []
    for pid in map(int, listed.stdout.split()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if any(word in programs or word.rpartition("/")[2] in programs for word in words):
            found.append(pid)
    return found


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS

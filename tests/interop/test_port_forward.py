"""Programs that nobody here wrote, through `coder port-forward`: PostgreSQL, Redis, iperf3, nginx, curl, h2load,
aioquic.

One deployment and one forward for all of them; at the end it loses its agent and its server.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered, interrupt, kill, until
from coder_agent.testing.processes import Program, run_program

pytestmark = [pytest.mark.foreign, pytest.mark.slow]
LOCAL = "127.0.0.1"
PROGRAMS = Path(__file__).parent / "programs"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
SIZE = 20 << 20
"""Bytes of the file that curl fetches."""
NEEDED = ("redis-server", "redis-cli", "psql", "iperf3", "nginx", "curl", "h2load")
missing = [name for name in NEEDED if shutil.which(name) is None] + ([] if POSTGRES.exists() else ["postgresql"])
if missing:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)


def free_port() -> int:
    """A port for both protocols, below those that systems choose by themselves: nobody else gets it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        try:
            with socket.create_server((LOCAL, port)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind((LOCAL, port))
                return port
        except OSError:
            continue


@dataclass
class Place:
    """The deployment, the forward, and which local port leads to which program."""

    deployment: Deployment
    dev: Registered
    agent: Program
    forward: Program
    local: dict[str, int]
    remote: dict[str, int]


def start_postgres(deployment: Deployment, folder: Path, port: int) -> None:
    """A database cluster of the test's own; PostgreSQL refuses to run as root."""
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, machine = str(folder / "data"), deployment.workspace
    init = [str(POSTGRES / "initdb"), "-D", data, "-U", "alice", "--auth=trust", "--no-sync", "--no-instructions"]
    made = deployment.start(machine, *as_user, "env", "-C", str(folder), *init)
    assert made.wait() == 0, made.output
    serve = [str(POSTGRES / "postgres"), "-D", data, "-h", LOCAL, "-p", str(port), "-k", "", "-F"]
    deployment.start(machine, *as_user, "env", "-C", str(folder), *serve).wait_for("ready to accept connections")


def start_nginx(deployment: Deployment, folder: Path, port: int) -> None:
    """HTTP/1.1 and HTTP/2 with prior knowledge, on two ports."""
    folder.mkdir()
    (folder / "file").write_bytes(bytes(SIZE))
    (folder / "small").write_bytes(bytes(1000))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"""
user root; daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr notice;
events {{ worker_connections 256; }}
http {{
  access_log off; {temporary}
  server {{ listen {LOCAL}:{port}; root {folder}; }}
  server {{ listen {LOCAL}:{port + 1} http2; root {folder}; }}
}}""")
    deployment.start(deployment.workspace, "nginx", "-c", str(folder / "nginx.conf")).wait_for("start worker|nginx/")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("forward")
    with tempfile.TemporaryDirectory() as everybodys, Deployment(folder) as deployment:
        deployment.start_server()
        deployment.sign_in()
        dev = deployment.create("dev")
        agent = deployment.start_agent(dev, verbose=False)
        remote = {name: free_port() for name in ("postgres", "redis", "iperf", "nginx", "reverse")}
        start_postgres(deployment, Path(everybodys), remote["postgres"])
        start_nginx(deployment, folder / "nginx", remote["nginx"])
        remote["nginx2"] = remote["nginx"] + 1
        machine = deployment.workspace
        deployment.start(
            machine, "redis-server", "--port", str(remote["redis"]), "--bind", LOCAL, "--save", ""
        ).wait_for("Ready to accept")
        deployment.start(machine, "iperf3", "-s", "-B", LOCAL, "-p", str(remote["iperf"]), "--forceflush").wait_for(
            "listen"
        )
        quic = deployment.start(machine, sys.executable, str(PROGRAMS / "quic_echo.py"), "serve", str(folder))
        remote["quic"] = quic.event("listening")["port"]
        local = {name: free_port() for name in [*remote, "socks"]}
        forward = deployment.start(
            deployment.user, "coder", "port-forward", "dev", "--output", "json",
            "--tcp", ",".join(f"{local[name]}:{remote[name]}" for name in ("postgres", "redis", "nginx")),
            "--tcp", f"{LOCAL}:{local['nginx2']}:{remote['nginx2']}", "-p", f"{local['iperf']}:{remote['iperf']}",
            "--udp", f"{local['iperf']}:{remote['iperf']},{local['quic']}:{remote['quic']}",
            "--socks", str(local["socks"]), "--reverse", f"{remote['reverse']}:{remote['redis']}",
        )  # fmt: skip
        forward.event("ready")
        yield Place(deployment, dev, agent, forward, local, remote)


def test_psql_asks_a_real_postgresql(place: Place) -> None:
    for host in ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",):
        done = place.deployment.user.run(
            "psql", "-h", host, "-p", str(place.local["postgres"]), "-U", "alice", "-d", "postgres", "-tA",
            "-c", "select count(*), sum(length(repeat('x', n))) from generate_series(1, 2000) n",
            "-c", "select repeat('y', 3000000)",
        )  # fmt: skip
        assert done.code == 0, str(done)
        count, text = done.out.split("\n")[:2]
        assert count == "2000|2001000"
        assert text == "y" * 3_000_000


def test_redis_cli_talks_to_a_real_redis(place: Place) -> None:
    run, port = place.deployment.user.run, str(place.local["redis"])
    assert run("redis-cli", "-p", port, "set", "key", "value").out == "OK\n"
    assert run("redis-cli", "-p", port, "get", "key").out == "value\n"
    piped = "".join(f"SET k{n} {'v' * 100}\r\n" for n in range(5000))
    assert "errors: 0, replies: 5000" in run("redis-cli", "-p", port, "--pipe", stdin=piped).out


@pytest.mark.parametrize(
    ("name", "flag", "version", "times"),
    [("nginx", "--http1.1", "1.1", 2), ("nginx2", "--http2-prior-knowledge", "2", 1)],
    ids=["http1", "http2"],
)
def test_curl_fetches_by_either_http(place: Place, name: str, flag: str, version: str, times: int) -> None:
    """HTTP/2 once only: curl 7.88 itself stumbles over a second request on a connection without TLS."""
    done = place.deployment.user.run(
        "curl", "-sS", flag, "-w", "%{http_version} %{size_download} %{num_connects}\n",
        *["-o", os.devnull] * times, *[f"http://{LOCAL}:{place.local[name]}/file"] * times,
    )  # fmt: skip
    assert done.out.splitlines() == [f"{version} {SIZE} 1", f"{version} {SIZE} 0"][:times], str(done)


def test_h2load_multiplexes_requests(place: Place) -> None:
    """Two connections with fifty requests at once on each, and one big file among many on one connection."""
    url = f"http://{LOCAL}:{place.local['nginx2']}"
    for path, requests, clients, streams in (("small", 1000, 2, 50), ("file", 8, 1, 8)):
        done = place.deployment.user.run(
            "h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams), f"{url}/{path}"
        )
        wanted = f"{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored"
        assert wanted in done.out, str(done)
        assert "Application protocol: h2c" in done.out


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_curl_goes_through_the_proxy(place: Place, scheme: str) -> None:
    done = place.deployment.user.run(
        "curl", "-sS", "-x", f"{scheme}://{LOCAL}:{place.local['socks']}", "--noproxy", "", "-o", os.devnull,
        "-w", "%{http_code} %{size_download}", f"http://localhost:{place.remote['nginx']}/file",
    )  # fmt: skip
    assert done.out == f"200 {SIZE}", str(done)
    refused = place.deployment.user.run(
        "curl", "-sS", "-x", f"{scheme}://{LOCAL}:{place.local['socks']}", "--noproxy", "", "-o", os.devnull,
        "-w", "%{http_code}", "http://192.0.2.1/",
    )  # fmt: skip
    assert refused.out == ("000" if scheme == "socks5h" else "403"), str(refused)


def test_redis_is_reached_the_other_way_round(place: Place) -> None:
    done = place.deployment.workspace.run("redis-cli", "-p", str(place.remote["reverse"]), "ping")
    assert done.out == "PONG\n", str(done)


def iperf(place: Place, *flags: str) -> dict[str, dict[str, float]]:
    """One run of iperf3 against the forward; its server takes one client at a time, so another try may be due."""

    def run() -> dict[str, dict[str, float]] | None:
        done = place.deployment.user.run(
            "iperf3", "-J", "-c", LOCAL, "-p", str(place.local["iperf"]), "-t", "1", *flags
        )
        document = json.loads(done.out)
        if "busy" in document.get("error", ""):
            return None
        assert "error" not in document, str(done)
        end: dict[str, dict[str, float]] = document["end"]
        return end

    return until("a run of iperf3", run)


@pytest.mark.parametrize("flags", [[], ["-R"], ["-P", "4"]], ids=["up", "down", "four"])
def test_iperf3_moves_tcp(place: Place, flags: list[str]) -> None:
    assert iperf(place, *flags)["sum_received"]["bytes"] > 10_000_000


@pytest.mark.parametrize(
    ("size", "flags"),
    [(1200, []), (1472, ["-R"]), (32_768, []), (32_768, ["-R"])],
    ids=["up", "down", "up-32k", "down-32k"],
)
def test_iperf3_moves_udp_of_every_size(place: Place, size: int, flags: list[str]) -> None:
    """How little is lost at 50 Mbit/s is for `make bench`, on a machine that does nothing else."""
    found = iperf(place, "-u", "-b", "5M", "-l", str(size), "-w", "208K", *flags)["sum"]
    assert found["packets"] > 10
    assert found["lost_percent"] < 5


def test_quic_comes_back_whole(place: Place) -> None:
    done = place.deployment.user.run(
        sys.executable, str(PROGRAMS / "quic_echo.py"), "ask", str(place.local["quic"]), "300000"
    )
    assert json.loads(done.out) == {"event": "echoed", "bytes": 300_000, "same": True}, str(done)


def test_a_busy_port_is_said_before_anything_else(place: Place) -> None:
    port = place.local["redis"]
    done = place.deployment.user.coder("port-forward", "dev", "--tcp", f"{port}:80")
    assert done.code == 1, str(done)
    assert f"cannot listen on tcp://{LOCAL}:{port}: address already in use" in done.err
    assert "Traceback" not in done.err


def test_stats_count_what_went_through(place: Place) -> None:
    def look() -> bool:
        stats = place.forward.events("stats")
        forwards = {book["remote"]: book for book in stats[-1]["forwards"]} if stats else {}
        book = forwards.get(f"tcp://127.0.0.1:{place.remote['postgres']}", {})
        return bool(book.get("received_bytes", 0) > 3_000_000)

    assert until("the books", look)


def ping_redis(place: Place) -> bool:
    done = place.deployment.user.run("redis-cli", "-p", str(place.local["redis"]), "ping")
    return done.out == "PONG\n"


def open_redis(place: Place) -> socket.socket:
    """A connection that is in use, then idle."""
    sock = socket.create_connection((LOCAL, place.local["redis"]), timeout=60)
    sock.sendall(b"PING\r\n")
    assert sock.recv(100) == b"+PONG\r\n"
    return sock


def test_forwards_outlive_the_server_and_their_connections_too(place: Place) -> None:
    deployment = place.deployment
    with open_redis(place) as sock:
        server = next(program for program in deployment.programs if program.name == "coder server")
        interrupt(server)
        assert ping_redis(place)
        deployment.start_server()
        deployment.wait_status(place.dev, "connected")
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
        assert ping_redis(place)


def test_an_agent_that_crashed_resets_old_connections_and_serves_new_ones(place: Place) -> None:
    with open_redis(place) as sock:
        kill(place.agent)
        place.agent = place.deployment.start_agent(place.dev, verbose=False)
        assert until("a new connection", lambda: ping_redis(place))
        with pytest.raises(ConnectionResetError):
            sock.recv(100)


def test_a_workspace_that_is_gone_is_a_reset_and_not_a_hang(place: Place) -> None:
    with open_redis(place) as sock:
        kill(place.agent)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    assert place.forward.event("lost")["message"].startswith("Workspace alice/dev is gone")
    assert interrupt(place.forward) == 0
    assert place.forward.event("stopped")


def test_a_user_who_is_turned_away_hears_why(place: Place) -> None:
    if place.agent.process.poll() is None:  # two agents with one token take over from each other without end
        kill(place.agent)
    agent = place.deployment.start(
        place.deployment.workspace, "coder-agent", "run",
        env={
            "CODER_AGENT_URL": place.deployment.url, "CODER_AGENT_TOKEN": place.dev.token,
            "CODER_AGENT_FORWARD_PORTS": "none", "CODER_AGENT_REVERSE": "false",
        },
    )  # fmt: skip
    agent.wait_for("is up$")
    place.deployment.wait_status(place.dev, "connected")
    port = free_port()
    reverse = place.deployment.user.coder("port-forward", "dev", "--reverse", f"{port}:80")
    assert reverse.code == 1
    assert "lets nobody listen" in reverse.err
    with run_program(
        "coder", "port-forward", "dev", "--tcp", f"{port}:{place.remote['redis']}", "-o", "json",
        env=place.deployment.user.environ(),
    ) as forward:  # fmt: skip
        forward.event("ready")
        with pytest.raises(ConnectionResetError), socket.create_connection((LOCAL, port), timeout=60) as sock:
            sock.recv(1)  # the reset may also come before we hear that we are connected
        assert forward.event("failed")["reason"] == "refused"

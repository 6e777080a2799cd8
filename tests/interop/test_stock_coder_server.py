"""A stock Coder server with our agent and our commands: what comes to a deployment that runs stock Coder already.

Workspace `dev` has two agents, `ours` and the stock program's; workspace `far` has one of ours that may only be
relayed. The stock server's own relay carries what is relayed, its own tailnet what a browser asks for. Stock commands
reach our agent, and our commands both agents.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import anyio
import pytest
from websockets import Origin
from websockets.sync.client import connect as open_websocket

import coder_agent
from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import PathKind
from coder_agent.protocols.stun import respond
from coder_agent.testing.deployment import Machine, Result, kill, until
from coder_agent.testing.processes import PATIENCE, Program, run_program
from coder_agent.testing.stock_coder import StockAgent, StockApp, StockScript, StockServer, StockWorkspace, free_port

pytestmark = [pytest.mark.foreign, pytest.mark.slow, pytest.mark.timeout(180)]

APP = Path(__file__).parent / "programs" / "web_app.py"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
BLOB = bytes(range(256)) * 16384
"""4 MiB."""
SCRIPT = """#!/bin/bash
for word in "$CODER_WORKSPACE_NAME" "$FLAVOUR" "$PWD"; do echo "[[$word]]"; done
"""


@dataclass
class Place:
    """A stock server, its agents, and somebody who uses them with either program."""

    server: StockServer
    program: str
    dev: StockWorkspace
    far: StockWorkspace
    user: Machine
    desk: Machine
    home: Path
    app_port: int

    def coder(self, *arguments: str, timeout: float = 60.0) -> Result:
        """Our `coder`."""
        return self.user.coder(*arguments, timeout=timeout, env=self._signed_in)

    def stock(self, *arguments: str, timeout: float = 60.0) -> Result:
        """Theirs."""
        return self.desk.run(self.program, *arguments, timeout=timeout, env=self._signed_in)

    @property
    def _signed_in(self) -> dict[str, str]:
        return {"CODER_URL": self.server.url, "CODER_SESSION_TOKEN": self.server.token}

    @contextmanager
    def staying(self, machine: Machine, *command: str) -> Iterator[Program]:
        """A program that stays until the block ends."""
        with run_program(*command, env=machine.environ(self._signed_in), cwd=machine.folder) as program:
            yield program

    def agent(self, name: str = "ours") -> dict[str, Any]:
        """What the server says of an agent of `dev`."""
        document: dict[str, Any] = self.server.agent(self.dev, name)
        return document

    def is_ready(self, workspace: StockWorkspace, name: str) -> bool:
        """Has an agent started?"""
        return bool(self.server.agent(workspace, name)["lifecycle_state"] == "ready")

    def get(self, path: str, host: str = "", data: bytes | None = None, method: str = "GET") -> bytes:
        """What a signed-in browser gets."""
        headers = {"Coder-Session-Token": self.server.token, **({"Host": host} if host else {})}
        request = urllib.request.Request(self.server.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def stun_server() -> Iterator[int]:
    """A STUN server on loopback; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
        answering.bind(("127.0.0.1", 0))

        def serve() -> None:
            while (question := answering.recvfrom(2048))[0] != b"end":
                answer = respond(question[0], AddrPort.of(*question[1]))
                if answer is not None:
                    answering.sendto(answer, question[1])

        thread = threading.Thread(target=serve)
        thread.start()
        port = answering.getsockname()[1]
        try:
            yield port
        finally:
            answering.sendto(b"end", ("127.0.0.1", port))
            thread.join()


@pytest.fixture(scope="module")
def place(stock_coder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("stock")
    with ExitStack() as exits:
        stun = exits.enter_context(stun_server())
        app = exits.enter_context(run_program(sys.executable, str(APP)))
        app_port = int(app.wait_for(r"listening on (\d+)")[1])
        server = exits.enter_context(
            StockServer(
                stock_coder, folder / "server",
                "--derp-server-stun-addresses", f"127.0.0.1:{stun}", "--wildcard-access-url", "*.apps.test",
            )
        )  # fmt: skip
        server.sign_in()
        url = f"http://127.0.0.1:{app_port}"
        agents = [
            StockAgent(
                "ours",
                (StockApp("web", url, check=url),),
                (StockScript("greeting", SCRIPT, blocks=True),),
                environment={"FLAVOUR": "vanilla"},
                directory="~",
            ),
            StockAgent("stock", (StockApp("site", url),), environment={"FLAVOUR": "lemon"}),
        ]
        dev, far = server.create_workspace("dev", agents), server.create_workspace("far", [StockAgent("main")])
        made = Place(
            server, stock_coder, dev, far,
            Machine(folder / "user"), Machine(folder / "desk"), folder / "ours", app_port,
        )  # fmt: skip
        exits.enter_context(our_agent(made, dev.agents["ours"]))
        exits.enter_context(our_agent(made, far.agents["main"], "--disable-direct-connections"))
        home = Machine(folder / "theirs")
        quiet = ("--no-reap", "--pprof-address=", "--prometheus-address=", "--debug-address=", f"--log-dir={folder}")
        theirs = {"CODER_AGENT_URL": server.url, "CODER_AGENT_TOKEN": dev.agents["stock"].token}
        exits.enter_context(run_program(stock_coder, "agent", *quiet, env=home.environ(theirs), cwd=home.folder))
        for workspace, name in ((dev, "ours"), (dev, "stock"), (far, "main")):
            until(f"{name} is ready", partial(made.is_ready, workspace, name))
        yield made


@contextmanager
def our_agent(place: Place, agent: StockAgent, *flags: str) -> Iterator[Program]:
    """Our `coder-agent`, with the token of an agent of the server; its home is `place.home`."""
    machine = Machine(place.home)
    env = {"CODER_AGENT_URL": place.server.url, "CODER_AGENT_TOKEN": agent.token}
    with run_program("coder-agent", "-v", *flags, "run", env=machine.environ(env), cwd=machine.folder) as program:
        program.wait_for(r"is up$")
        yield program
        assert "Traceback" not in program.stop()


# ---------------------------------------------------------------- our agent, as a stock server sees it


def test_the_server_knows_our_agent(place: Place) -> None:
    agent = place.agent()
    assert (agent["status"], agent["lifecycle_state"], agent["health"]["healthy"]) == ("connected", "ready", True)
    assert agent["version"].startswith("v")
    assert agent["api_version"] == place.agent("stock")["api_version"], "the newest that this server has"
    assert agent["expanded_directory"] == str(place.home)
    until("the app is healthy", lambda: place.agent()["apps"][0]["health"] == "healthy")
    until("its distance to the relay is known", lambda: "Coder Embedded Relay" in place.agent().get("latency", {}))


def test_the_templates_start_script_has_run(place: Place) -> None:
    logs = place.server.call("GET", f"/workspaceagents/{place.dev.agent_ids['ours']}/logs")
    assert [entry["output"] for entry in logs] == ["[[dev]]", "[[vanilla]]", f"[[{place.home}]]"]
    build = place.server.call("GET", f"/workspaces/{place.dev.id}")["latest_build"]["id"]
    timings = place.server.call("GET", f"/workspacebuilds/{build}/timings")["agent_script_timings"]
    assert [(timing["stage"], timing["status"], timing["exit_code"]) for timing in timings] == [("start", "ok", 0)]


def test_listening_ports_and_containers(place: Place) -> None:
    path = f"/workspaceagents/{place.dev.agent_ids['ours']}"
    ports = place.server.call("GET", f"{path}/listening-ports")["ports"]
    assert place.app_port not in [one["port"] for one in ports], "an app's port is not listed again"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def listed() -> bool:
            return port in [p["port"] for p in place.server.call("GET", f"{path}/listening-ports")["ports"]]

        until("a new port is listed", listed)
    shown = place.stock("show", "dev")
    assert shown.code == 0, str(shown)
    assert "connected" in shown.out
    assert "WARN" not in shown.err, "a stock agent answers all that the command asks"


def test_the_servers_own_tailnet_reaches_apps_of_our_agent(place: Place) -> None:
    base = "/@alice/dev.ours/apps/web"
    assert b"<title>app</title>" in place.get(f"{base}/")
    told = json.loads(place.get(f"{base}/digest", data=BLOB, method="PUT"))
    assert told == {"size": len(BLOB), "sha256": hashlib.sha256(BLOB).hexdigest()}
    assert place.get("/static/fetched.txt", f"{place.app_port}--ours--dev--alice.apps.test") == b"fetched"
    url = place.server.url.replace("http", "ws", 1)
    origin = Origin(place.server.url)  # the app wants the one that its Host names, and the server leaves Host as it is
    with open_websocket(f"{url}{base}/socket", origin=origin, additional_headers=session(place)) as socket_:
        socket_.send("hello")
        assert socket_.recv(PATIENCE) == "echo: hello"


def session(place: Place) -> dict[str, str]:
    return {"Coder-Session-Token": place.server.token}


def test_the_servers_web_terminal(place: Place) -> None:
    """Two visits to one shell, as a page that is loaded again makes them."""
    shell = uuid4()
    path = f"/api/v2/workspaceagents/{place.dev.agent_ids['ours']}/pty?reconnect={shell}&width=100&height=40"
    url = place.server.url.replace("http", "ws", 1) + path
    with open_websocket(url, additional_headers=session(place)) as page:
        page.send(json.dumps({"data": "cd /; echo flavour=$FLAVOUR $((40 + 2))\r"}).encode())
        read_until(page, b"flavour=vanilla 42")
    with open_websocket(url, additional_headers=session(place)) as page:
        read_until(page, b"flavour=vanilla 42")
        page.send(json.dumps({"height": 20, "width": 60}).encode())
        page.send(json.dumps({"data": "echo at=$PWD; stty size\r"}).encode())
        read_until(page, b"20 60")
        page.send(json.dumps({"data": "exit\r"}).encode())


def read_until(page: Any, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        seen += page.recv(PATIENCE)


def test_the_servers_own_account_of_the_deployment(place: Place) -> None:
    health = place.server.call("GET", "/debug/health")
    assert health["derp"]["severity"] == "ok", health["derp"]
    coordinator = place.get("/api/v2/debug/coordinator").decode()
    assert place.dev.agent_ids["ours"] in coordinator


def test_the_server_hears_how_much_the_workspace_is_used(place: Place) -> None:
    """It stops workspaces that nobody uses, as their agents tell."""

    def told() -> dict[str, Any] | None:
        stats: dict[str, Any] = place.server.call("GET", "/deployment/stats")
        return stats if stats["session_count"]["ssh"] > 0 else None

    busy = "while sleep 0.1; do date; done"
    with place.staying(place.user, "coder", "ssh", "dev.ours", busy) as shell:
        shell.wait_for(r"\d\d:\d\d")
        stats = until("the shell is counted", told)
    assert stats["workspaces"]["rx_bytes"] > 0
    assert stats["workspaces"]["tx_bytes"] > 0


def test_our_agent_leaves_and_comes_back(place: Place) -> None:
    spare = place.server.create_workspace("spare", [StockAgent("main")])

    def status() -> str:
        return str(place.server.agent(spare, "main")["status"])

    with our_agent(place, spare.agents["main"]) as agent:
        until("it is connected", lambda: status() == "connected")
        agent.stop()
        assert status() != "connected", "the server was told"
        assert place.server.agent(spare, "main")["lifecycle_state"] == "off"
    with our_agent(place, spare.agents["main"]):
        until("it is connected again", lambda: status() == "connected")
        pong = place.coder("ping", "spare", "-n", "1")
        assert "pong from spare" in pong.out, str(pong)
    gone = place.coder("delete", "spare", "-y")
    assert gone.out == "Workspace alice/spare is removed.\n", str(gone)
    assert "spare" not in place.coder("list").out


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL of this test's own, which refuses to run as root; yields its URL. `folder` is everybody's."""
    as_user: list[str] = ["env", "-C", str(folder)]
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *as_user]
    data, port = str(folder / "data"), str(free_port())
    init = (str(POSTGRES / "initdb"), "-D", data, "-U", "alice", "--auth=trust", "--no-sync", "--no-instructions")
    with run_program(*as_user, *init) as making:
        assert making.wait() == 0, making.output
    with run_program(
        *as_user, str(POSTGRES / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", port, "-k", "", "-F"
    ) as running:
        running.wait_for("ready to accept connections")
        yield f"postgres://alice@127.0.0.1:{port}/postgres?sslmode=disable"


@pytest.mark.skipif(not POSTGRES.exists() and not os.environ.get("CI"), reason="PostgreSQL is missing")
def test_a_shell_outlives_a_crash_of_the_server(stock_coder: str, tmp_path: Path) -> None:
    script = StockScript("greeting", "echo once")
    with ExitStack() as exits:
        folder = Path(exits.enter_context(TemporaryDirectory(prefix="stock-coder-", ignore_cleanup_errors=True)))
        database = exits.enter_context(postgres(folder))
        flags = ("--in-memory=false", "--postgres-url", database)
        server = exits.enter_context(StockServer(stock_coder, tmp_path / "server", *flags))
        server.sign_in()
        dev = server.create_workspace("dev", [StockAgent("main", scripts=(script,))])
        user, desk = Machine(tmp_path / "user"), Machine(tmp_path / "desk")
        place = Place(server, stock_coder, dev, dev, user, desk, tmp_path / "ours", 0)
        agent = exits.enter_context(our_agent(place, dev.agents["main"]))
        counting = "i=0; while sleep 0.1; do i=$((i+1)); echo line $i.; done"
        session = exits.enter_context(place.staying(user, "coder", "ssh", "dev", counting))
        session.wait_for(r"line 3\.")
        kill(server.program)
        here = session.output.count("line")
        session.wait_for(rf"line {here + 10}\.")
        server.start_again()
        until("the agent is back", lambda: agent.output.count(f"connected to {server.url}") == 2)
        pong = place.coder("ping", "dev", "-n", "1")
        assert "pong from dev" in pong.out, str(pong)
        here = session.output.count("line")
        session.wait_for(rf"line {here + 10}\.")
        logs = server.call("GET", f"/workspaceagents/{dev.agent_ids['main']}/logs")
        assert [entry["output"] for entry in logs] == ["once"], "a server's restart is not the workspace's"


# ---------------------------------------------------------------- stock commands to our agent, by a stock server


@pytest.mark.parametrize("name", ["dev.ours", "far"], ids=["direct", "relayed"])
def test_stock_ping(place: Place, name: str) -> None:
    done = place.stock("ping", name, "-n", "3")
    assert done.code == 0, str(done)
    assert done.out.count(f"pong from {name}") == 3
    assert (" p2p via " in done.out) == (name != "far"), str(done)
    assert ("via DERP(Coder Embedded Relay)" in done.out) or name != "far", str(done)
    assert "outdated" not in done.out + done.err, "it tells of its network as a stock agent does"


@pytest.mark.parametrize(("name", "way"), [("dev.ours", "down"), ("dev.ours", "up"), ("far", "down")])
def test_stock_speedtest(place: Place, name: str, way: str) -> None:
    done = place.stock("speedtest", name, "-t", "1s", "--direction", way, "-o", "json")
    assert done.json()["overall"]["throughput_mbits"] > 1, str(done)


@pytest.mark.parametrize("name", ["dev.ours", "far"], ids=["direct", "relayed"])
def test_openssh_by_stock_coder(place: Place, name: str) -> None:
    config = place.desk.folder / "ssh_config"
    assert place.stock("login", place.server.url, "--token", place.server.token).code == 0
    assert place.stock("config-ssh", "-y", "--ssh-config-file", str(config)).code == 0
    ssh = ("ssh", "-F", str(config), f"coder.{name}")
    done = place.desk.run(*ssh, "echo $FLAVOUR; cat >&2; pwd; exit 7", stdin="to stderr", timeout=60)
    assert (done.code, done.err) == (7, "to stderr"), str(done)
    assert done.out == ("vanilla\n" if name != "far" else "\n") + f"{place.home}\n"


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is missing")
@pytest.mark.parametrize("name", ["dev.ours", "far"], ids=["direct", "relayed"])
def test_stock_port_forward(place: Place, name: str) -> None:
    forward(place, place.program, place.desk, name)


def forward(place: Place, program: str, machine: Machine, name: str) -> None:
    """A page and an upload by TCP, datagrams by UDP."""
    web, udp = free_port(), free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo, socket.socket(type=socket.SOCK_DGRAM) as asking:
        echo.bind(("127.0.0.1", 0))
        specs = ("--tcp", f"127.0.0.1:{web}:{place.app_port}", "--udp", f"127.0.0.1:{udp}:{echo.getsockname()[1]}")
        with place.staying(machine, program, "port-forward", name, *specs) as forwarding:
            forwarding.wait_for("Ready!")
            file = machine.folder / "blob"
            file.write_bytes(BLOB)
            done = machine.run("curl", "-sS", "-T", str(file), f"http://127.0.0.1:{web}/digest")
            assert json.loads(done.out)["sha256"] == hashlib.sha256(BLOB).hexdigest(), str(done)
            asking.sendto(b"question", ("127.0.0.1", udp))
            echo.settimeout(PATIENCE)
            question, source = echo.recvfrom(100)
            assert question == b"question"
            echo.sendto(b"answer", source)
            asking.settimeout(PATIENCE)
            assert asking.recv(100) == b"answer"


# ---------------------------------------------------------------- our commands, by a stock server


def test_our_login_keeps_a_session_of_its_own(place: Place, tmp_path: Path) -> None:
    somebody = Machine(tmp_path)
    done = somebody.coder("login", place.server.url, "--token", place.server.token)
    assert "Welcome to Coder, alice!" in done.out + done.err, str(done)
    kept = (tmp_path / ".config/coderv2/session").read_text()
    assert kept != place.server.token
    assert "alice/dev" in somebody.coder("list").out
    assert "never" in somebody.coder("tokens", "create").out + somebody.coder("tokens", "list").out
    assert somebody.coder("logout").code == 0
    assert "401" in str(refusal(place, kept)), "the session is gone at the server, too"


def refusal(place: Place, token: str) -> object:
    request = urllib.request.Request(f"{place.server.url}/api/v2/users/me", headers={"Coder-Session-Token": token})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return None
    except OSError as error:
        return error


def test_our_list_and_health(place: Place) -> None:
    listed = place.coder("list").out
    for agent in ("ours", "stock", "main"):
        assert f"{agent} " in listed
    assert "deployment is" in place.coder("health").out
    several = place.coder("ping", "dev", "-n", "1")
    assert "dev.ours, dev.stock" in several.err


BOTH = pytest.mark.parametrize("name", ["dev.ours", "dev.stock", "far"])


@BOTH
def test_our_path(place: Place, name: str) -> None:
    path = place.coder("path", name)
    assert ("not directly" in path.out) == (name == "far"), str(path)


def test_our_ping(place: Place) -> None:
    pong = place.coder("ping", "dev.stock", "-n", "2", "-o", "json").json()
    assert pong["summary"]["successful"] == 2
    assert pong["pongs"][-1]["direct"]
    relayed = place.coder("ping", "dev.stock", "-n", "1", "--disable-direct-connections")
    assert "via DERP(Coder Embedded Relay)" in relayed.out, str(relayed)


@BOTH
def test_our_speedtest(place: Place, name: str) -> None:
    document = place.coder("speedtest", name, "-t", "1s", "--direction", "both", "-o", "json").json()
    assert document["down"]["throughput_mbits"] > 1
    assert document["up"]["throughput_mbits"] > 1


@BOTH
def test_our_ssh(place: Place, name: str) -> None:
    done = place.coder("ssh", name, "echo flavour=$FLAVOUR; exit 7")
    flavour = {"dev.ours": "vanilla", "dev.stock": "lemon"}.get(name, "")
    assert (done.code, done.out) == (7, f"flavour={flavour}\n"), str(done)


def test_our_terminal(place: Place) -> None:
    done = place.coder("terminal", "dev.stock", "--", "echo", "hello")
    assert (done.code, done.out.strip()) == (0, "hello"), str(done)


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is missing")
@pytest.mark.parametrize("name", ["dev.stock", "far"], ids=["direct", "relayed"])
def test_our_port_forward(place: Place, name: str) -> None:
    forward(place, "coder", place.user, name)


def test_our_netcheck(place: Place) -> None:
    report = place.coder("netcheck", "-o", "json").json()
    region = report["derp"]["regions"]["999"]
    assert region["healthy"], report
    assert region["node_reports"][0]["can_exchange_messages"]


@pytest.mark.anyio
@BOTH
async def test_our_python_api(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in place.user.environ().items():
        monkeypatch.setenv(variable, value)
    with anyio.fail_after(60):
        async with coder_agent.connect(name, url=place.server.url, token=place.server.token) as workspace:
            assert (await workspace.run("echo $((40 + 2))")).stdout == b"42\n"
            async with await workspace.open_tcp(place.app_port) as stream:
                await stream.send(b"GET /static/fetched.txt HTTP/1.0\r\n\r\n")
                said = b""
                async for piece in stream:
                    said += piece
                assert said.endswith(b"fetched")
            if name != "far":
                assert (await workspace.wait_direct()).kind is PathKind.DIRECT


@pytest.mark.parametrize("command", [("path-rules", "dev"), ("create", "third")], ids=["path-rules", "create"])
def test_what_a_stock_server_does_not_offer_is_said(place: Place, command: tuple[str, ...]) -> None:
    done = place.coder(*command)
    assert done.code == 1
    assert "stock Coder server" in done.err, str(done)
    assert "Traceback" not in done.err


def test_apps_and_shares_of_a_stock_server(place: Place) -> None:
    shared = place.coder("port-share", "dev.ours", str(place.app_port), "-o", "json").json()
    assert [(share["agent_name"], share["share_level"]) for share in shared] == [("ours", "authenticated")]
    done = place.coder("app", "list", "dev.ours")
    assert "its template" in done.out, str(done)

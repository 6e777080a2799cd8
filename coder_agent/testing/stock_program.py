"""The stock Coder program (CLI, agent and server in one) that ``scripts/stock_coder`` builds, as a judge of ours: its
CLI and its agent with our server, beside our own.

    with open_stock_site(program, tmp_path) as site:
        print(site.stranger.stock("ping", "dev", "-n", "1").out)  # its CLI, our agent
        print(site.place.user.coder("ping", "stock", "-n", "1").out)  # our CLI, its agent
"""

from __future__ import annotations

import json
import random
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .deployment import PASSWORD, Deployment, Machine, Registered, Result, until
from .exchange import serve_directory
from .processes import PATIENCE, Program

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "judges" / "coder" / "coder"
NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses (the discard port): nobody outside is asked anything. Loopback goes without a proxy."""
PAGE = "Hello from the workspace."
RELAYED = "-relayed"
"""End of the names of workspaces that may only be reached by relay."""


def find_stock_coder() -> str | None:
    """Its path; None if it was not built."""
    return str(PROGRAM) if PROGRAM.exists() else None


@dataclass(slots=True)
class StockMachine(Machine):
    """A machine on which the stock program runs, offline but for loopback."""

    program: str = ""
    trusted: Path | None = None
    """Certificates to trust, instead of the system's."""
    inside: str = ""
    """Networks beside loopback that are the test's own."""

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Its whole environment."""
        own = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": self.inside}
        if self.trusted is not None:
            own["SSL_CERT_FILE"] = str(self.trusted)
        return Machine.environ(self, {**own, **(more or {})})

    def stock(
        self, *arguments: str, timeout: float = PATIENCE, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run the stock `coder` to its end."""
        return self.run(self.program, *arguments, timeout=timeout, stdin=stdin, env=env)


@dataclass(slots=True)
class StockSite:
    """A server of ours; `place.user` with our CLI, `stranger` with the stock one, the same user; the workspaces `dev`
    and `dev-relayed` with our agent, `stock` and `stock-relayed` with the stock one."""

    place: Deployment
    stranger: StockMachine
    workspaces: dict[str, Registered]
    server: Program
    page_port: int
    """Of `PAGE`, which is also the app `web` of each workspace."""
    stock_agents: dict[str, Program] = field(default_factory=dict)
    url: str = ""
    """At which stock programs reach the server, if it is another than ours do."""

    def sign_in(self) -> None:
        """The stock CLI makes the first user, and a token with which ours signs in."""
        made = self.stranger.stock(
            "login", self.url or self.place.url, "--first-user-username", "alice", "--first-user-email",
            "alice@example.com", "--first-user-password", PASSWORD, "--first-user-trial=false",
        )  # fmt: skip
        assert made.code == 0, str(made)
        token = self.stranger.stock("tokens", "create", "--name", "ours")
        assert token.code == 0, str(token)
        signed_in = self.place.user.coder("login", self.place.url, "--token", token.out.strip())
        assert signed_in.code == 0, str(signed_in)

    @property
    def session(self) -> str:
        """The token of the stock CLI's user."""
        return (self.stranger.folder / ".config/coderv2/session").read_text().strip()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A request to the server's API; the answer's JSON. Raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Coder-Session-Token": self.session, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.place.url}/api/v2{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def agent(self, workspace: str) -> Any:
        """What the server says of a workspace's agent."""
        return self.call("GET", f"/workspaceagents/{self.workspaces[workspace].agent_id}")

    def statuses(self) -> set[str]:
        """Of all agents."""
        return {self.agent(name)["status"] for name in self.workspaces}

    def start_stock_agent(self, name: str) -> None:
        """Start the stock agent of a workspace."""
        stranger = self.stranger
        machine = StockMachine(self.place.folder / name, program=stranger.program, trusted=stranger.trusted)
        url = self.url or self.place.url
        self.stock_agents[name] = start_stock_agent(self.place, machine, self.workspaces[name].token, url)

    def forward(self, *specs: str, workspace: str, ours: bool = False) -> tuple[Program, list[int]]:
        """A `coder port-forward`, the stock one or ours, listening: for each of `specs`, such as ``tcp:8080``, its
        local port."""
        machine, coder = (self.place.user, "coder") if ours else (self.stranger, self.stranger.program)
        for _ in range(3):  # the port that was free may be taken by the time it listens
            flags, ports = [], []
            for network, _, remote in (spec.partition(":") for spec in specs):
                ports.append(free_port())
                flags += [f"--{network}", f"127.0.0.1:{ports[-1]}:{remote}"]
            program = self.place.start(machine, coder, "port-forward", workspace, *flags)
            if program.wait_for(r"^Ready|in use")[0] == "Ready":
                return program, ports
            program.stop()
        raise AssertionError(program.output)


def start_stock_agent(place: Deployment, machine: StockMachine, token: str, url: str) -> Program:
    """Start a stock agent; its debug listeners are wherever there is room."""
    anywhere = "127.0.0.1:0"
    return place.start(
        machine,
        machine.program,
        "agent",
        "--no-reap",
        *("--log-dir", str(machine.folder)),
        *("--script-data-dir", str(machine.folder / "scripts")),
        *("--pprof-address", anywhere, "--prometheus-address", anywhere, "--debug-address", anywhere),
        env={"CODER_AGENT_URL": url, "CODER_AGENT_TOKEN": token, "SHELL": "/bin/sh"},
    )


def free_port() -> int:
    """Free for both protocols, and below those that systems choose by themselves."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind(("127.0.0.1", port))
                return port
        except OSError:
            continue


@contextmanager
def open_stock_site(program: str, folder: Path) -> Iterator[StockSite]:
    """Everything started."""
    pages = folder / "pages"
    pages.mkdir(parents=True)
    (pages / "index.html").write_text(PAGE)
    (pages / "big").write_bytes(random.Random(20).randbytes(5 << 20))
    with serve_directory(pages) as port, Deployment(folder) as place:
        server = place.start_server()
        stranger = StockMachine(folder / "stranger", program=program)
        site = StockSite(place, stranger, {}, server, port)
        site.sign_in()
        for name in ("dev", "stock", f"dev{RELAYED}", f"stock{RELAYED}"):
            site.workspaces[name] = workspace = _register(site, name)
            if name.startswith("dev"):
                place.start_agent(workspace, wait=False)
            else:
                site.start_stock_agent(name)
        until("all agents are connected", lambda: site.statuses() == {"connected"} or None)
        yield site


def _register(site: StockSite, name: str) -> Registered:
    """A workspace; by the API, for a command each takes its time."""
    url = f"http://localhost:{site.page_port}"
    app = {"slug": "web", "url": url, "healthcheck_url": f"{url}/", "healthcheck_interval": 1}
    made = site.call("POST", "/users/me/workspaces", {"name": name, "apps": [app]})
    if name.endswith(RELAYED):
        site.call("PUT", f"/workspaces/{made['id']}/path-rules", {"direct": "never"})
    return Registered(name, made["agent_tokens"][0]["agent_id"], made["agent_token"])

"""The whole product as real processes: a server, users, workspaces, agents, each on a machine of its own.

    with Deployment(tmp_path) as place:
        place.start_server()
        place.sign_in()
        dev = place.create("dev")
        place.start_agent(dev)
        print(place.user.coder("ping", dev.name, "-n", "1").out)

A machine is a home directory and, if given, a network namespace; without one it is on loopback. Everything ends with
the block; what the programs said is kept for whoever wants to know why something failed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .netns import Host
from .processes import PATIENCE, Program, run_program

T = TypeVar("T")
BIN = Path(sys.executable).parent
PASSWORD = "S3cure-pass-word"
POLL = 0.05
"""Seconds between two looks at something that cannot be waited for."""


def until(what: str, look: Callable[[], T | None], timeout: float = PATIENCE) -> T:
    """Look again and again until there is something to see. Raises AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(POLL)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `seconds` is how long it took."""

    command: str
    code: int
    out: str
    err: str
    seconds: float

    def json(self) -> Any:
        """Its stdout as JSON."""
        assert self.code == 0, str(self)
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"$ {self.command}\nexit {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


@dataclass(slots=True)
class Machine:
    """Where programs run: a home directory of its own, a namespace if `host` is given."""

    folder: Path
    host: Host | None = None

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a program: nothing of whoever runs the tests but where programs are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
        plain = {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        if self.host is None:  # on this machine itself, whose LAN is none of the test's business
            plain["CODER_PLUGIN_DISCOVERY_MDNS__ENABLED"] = "false"
        return {**plain, **(more or {})}

    def run(
        self, *command: str, timeout: float = PATIENCE, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run a program to its end. Raises subprocess.TimeoutExpired."""
        began = time.monotonic()
        done = subprocess.run(
            [*self._where(), *command],
            env=self.environ(env),
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(" ".join(command), done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def coder(self, *arguments: str, timeout: float = PATIENCE, env: Mapping[str, str] | None = None) -> Result:
        """Run `coder` to its end."""
        return self.run("coder", *arguments, timeout=timeout, env=env)

    def _where(self) -> list[str]:
        return [] if self.host is None else ["ip", "netns", "exec", self.host.name]


@dataclass(frozen=True, slots=True)
class Registered:
    """A workspace and its agent's token."""

    name: str
    agent_id: str
    token: str


@dataclass(slots=True)
class Deployment:
    """A server and what belongs to it. `address` is where the server listens and is reached; `hosts` are the
    namespaces of server, user and workspace."""

    folder: Path
    address: str = "127.0.0.1"
    hosts: tuple[Host, Host, Host] | None = None
    server: Machine = field(init=False)
    user: Machine = field(init=False)
    workspace: Machine = field(init=False)
    port: int = 0
    stun_port: int = 0
    programs: list[Program] = field(default_factory=list)
    flags: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    """Environment of every program that stays."""
    _exits: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        server, user, workspace = self.hosts or (None, None, None)
        self.server = Machine(self.folder / "server", server)
        self.user = Machine(self.folder / "user", user)
        self.workspace = Machine(self.folder / "workspace", workspace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        print(self.transcript())

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://{self.address}:{self.port}"

    def transcript(self) -> str:
        """What every program said."""
        return "\n".join(f"---- {program.name}\n{program.output[-20_000:]}" for program in self.programs)

    # ------------------------------------------------------------ programs that stay

    def start(self, machine: Machine, *command: str, env: Mapping[str, str] | None = None) -> Program:
        """Start a program; it ends with the deployment at the latest."""
        program = self._exits.enter_context(
            run_program(
                *command, host=machine.host, env=machine.environ({**self.extra, **(env or {})}), cwd=machine.folder
            )
        )
        program.name = " ".join(command[:2])
        self.programs.append(program)
        return program

    def start_server(self, *flags: str, verbose: bool = False) -> Program:
        """Start the server and wait until it serves; a second start takes the same ports, flags and database."""
        self.flags = flags or self.flags
        program = self.start(
            self.server,
            "coder",
            *(["-v"] if verbose else []),
            "server",
            *("--http-address", f"{self.address}:{self.port}"),
            *("--stun-address", f"{self.address}:{self.stun_port}"),
            *("--data-dir", str(self.server.folder / "data")),
            *(["--access-url", self.url] if self.port else []),
            *self.flags,
        )
        self.port = int(program.wait_for(r"Started HTTP listener at http://\S+:(\d+)")[1])
        if "--block-direct-connections" not in self.flags:  # which leaves nothing to ask STUN for
            self.stun_port = int(program.wait_for(r"Started STUN responder at udp port (\d+)")[1])
        return program

    def start_agent(
        self, workspace: Registered, *flags: str, url: str = "", verbose: bool = True, wait: bool = True
    ) -> Program:
        """Start a workspace's agent and, unless told otherwise, wait until the server knows it as connected. `url`:
        another way to it."""
        program = self.start(
            self.workspace,
            "coder-agent",
            *(["-v"] if verbose else []),
            *flags,
            "run",
            env={"CODER_AGENT_URL": url or self.url, "CODER_AGENT_TOKEN": workspace.token},
        )
        if wait:
            program.wait_for(r"is up$")
            self.wait_status(workspace, "connected")
        return program

    # ------------------------------------------------------------ users and workspaces

    def sign_in(self, name: str = "alice") -> None:
        """Make the server's first user, signed in on `user`."""
        done = self.user.coder(
            "login", self.url, "--first-user-username", name, "--first-user-email", f"{name}@example.com",
            env={"CODER_FIRST_USER_PASSWORD": PASSWORD},
        )  # fmt: skip
        assert done.code == 0, str(done)

    def create(self, name: str) -> Registered:
        """Register a workspace."""
        document = self.user.coder("create", name, "-o", "json").json()
        (resource,) = document["latest_build"]["resources"]
        return Registered(name, resource["agents"][0]["id"], document["agent_token"])

    def status(self, name: str) -> str:
        """What the server says about a workspace's agent: ``connected``, ``disconnected`` …"""
        for workspace in self.user.coder("list", "-o", "json").json():
            if workspace["name"] == name:
                (resource,) = workspace["latest_build"]["resources"]
                return str(resource["agents"][0]["status"])
        return ""

    def wait_status(self, workspace: Registered, status: str, timeout: float = PATIENCE) -> None:
        """Until the server says this about a workspace's agent."""
        until(f"{workspace.name} is {status}", lambda: self.status(workspace.name) == status or None, timeout)


def kill(program: Program) -> None:
    """End a program as a crash does."""
    program.process.send_signal(signal.SIGKILL)
    program.wait()


def interrupt(program: Program, timeout: float = PATIENCE) -> int:
    """Ctrl-C; returns the exit code."""
    program.process.send_signal(signal.SIGINT)
    return program.wait(timeout)


def resident_bytes(program: Program) -> int:
    """How much memory a program holds now (Linux)."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) << 10

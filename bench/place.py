"""Where it is measured: two machines on one Ethernet, a coder server and an agent on one, a user on the other.

Everything is a real process in a network namespace of its own; the server speaks HTTPS with a certificate of a CA made
for the occasion. Each benchmark gets a fresh place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coder_agent.testing.netns import Host, Lab
from coder_agent.testing.processes import Program, run_program

BIN = Path(sys.executable).parent
TUN = "bench0"
PATIENCE = 30.0
"""Seconds to wait for a process to be ready."""


class Unavailable(Exception):
    """Something that the benchmark needs is not on this machine; the text says what."""


def need(program: str, package: str) -> str:
    """Path of a foreign program. Raises Unavailable, with the Debian package that has it."""
    found = shutil.which(program)
    if found is None:
        raise Unavailable(f"{program} is not installed (apt-get install {package})")
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition`. Raises RuntimeError if it does not come true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.05)


class Place:
    """The two machines, empty until `start`. Ends all processes when left."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._user_config = ""
        self._agent_token = ""

    def __enter__(self) -> Self:
        self.directory = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="coder-bench-")))
        self._lab = self._exits.enter_context(Lab())
        self.workspace: Host = self._lab.host("workspace")
        self.user: Host = self._lab.host("user")
        self.server_host = self.workspace
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # ------------------------------------------------------------ set-up

    def join(self) -> None:
        """One Ethernet with an MTU of 1500."""
        self._lab.switch(self.workspace, self.user)

    def join_three(self) -> None:
        """One Ethernet, with the server on a machine of its own."""
        self.server_host = self._lab.host("server")
        self._lab.switch(self.workspace, self.user, self.server_host)

    def join_badly(self, loss: str, duplicate: str, reorder: str) -> None:
        """A link through a process that spoils it: probabilities per packet (programs/lossy_link.py)."""
        if not Path("/dev/net/tun").exists():
            raise Unavailable("there is no /dev/net/tun")
        hosts = self.workspace, self.user
        for number, host in enumerate(hosts, 1):
            host.run("ip", "tuntap", "add", "dev", TUN, "mode", "tun")
            host.address4 = f"10.78.0.{number}"
            host.run("ip", "address", "add", f"{host.address4}/24", "dev", TUN)
            host.run("ip", "link", "set", TUN, "txqueuelen", "10000", "up")
        names = (host.name for host in hosts)
        link = run_program(*self.program("lossy_link", *names, TUN, loss, duplicate, reorder, "1"))
        self._exits.enter_context(link).event("ready")

    def start(self, config: str = "") -> None:
        """Start server and agent, and register the user. `config`: TOML for agent and user besides what they need."""
        self.start_server()
        self._exits.enter_context(self.agent(config))
        self._user_config = config

    def start_server(self) -> None:
        """Start the server, sign in, and register the workspace "dev"."""
        if not self.workspace.address4:
            self.join()
        address = self.server_host.address4
        self.url = f"https://{address}:3443"
        self.make_certificate(address)
        server = run_program(
            str(BIN / "coder"), "server", "--http-address", "", "--tls-enable", "--tls-address", f"{address}:3443",
            "--tls-cert-file", str(self.directory / "server.pem"),
            "--tls-key-file", str(self.directory / "key.pem"),
            "--access-url", self.url, "--data-dir", str(self.directory / "data"),
            "--stun-address", f"{address}:3478", host=self.server_host, env=self.environment("server"),
        )  # fmt: skip
        self.server = self._exits.enter_context(server)
        self.server.wait_for(r"Started \S+ listener at")
        self.coder(
            "login", self.url, "--first-user-username", "bench", "--first-user-email", "bench@example.com",
            "--first-user-password", "only-for-the-bench",
        )  # fmt: skip
        self._agent_token = json.loads(self.coder("create", "dev", "--output", "json"))["agent_token"]

    @contextmanager
    def agent(self, config: str = "") -> Iterator[Program]:
        """An agent that is connected."""
        env = self.environment("agent", config)
        env |= {"CODER_AGENT_URL": self.url, "CODER_AGENT_TOKEN": self._agent_token}
        with run_program(str(BIN / "coder-agent"), "run", host=self.workspace, env=env) as agent:
            wait_until(lambda: " connected" in self.coder("list"), "the agent is connected")
            yield agent

    # ------------------------------------------------------------ the user's commands

    def coder(self, *arguments: str, timeout: float = 120) -> str:
        """Run `coder` on the user's machine; returns its stdout. Raises RuntimeError with its output if it fails."""
        env = self.environment("user", self._user_config)
        done = subprocess.run(
            ["ip", "netns", "exec", self.user.name, BIN / "coder", *arguments],
            capture_output=True, text=True, timeout=timeout, env=env, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"coder {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def speedtest(self, seconds: float, *flags: str) -> float:
        """Mbit/s of `coder speedtest`."""
        said: dict[str, Any] = json.loads(
            self.coder("speedtest", "dev", "--output", "json", "--time", f"{seconds:g}s", *flags)
        )
        expected = "direct" if "--direct" in flags else "coder"
        if said["path"] != expected:
            raise RuntimeError(f"the speed test went via {said['path']}, not {expected}")
        return float(said["overall"]["throughput_mbits"])

    def environment(self, role: str, config: str = "") -> dict[str, str]:
        """Of a process of ours: a home and a configuration of its own, nothing of the caller's."""
        home = self.directory / role
        home.mkdir(exist_ok=True)
        file = home / "config.toml"
        file.write_text(f'network.ca_file = "{self.directory}/ca.pem"\n{config}', encoding="utf-8")
        mine = {"HOME": str(home), "CODER_CONFIG_PATH": str(file), "CODER_CONFIG_DIR": str(self.directory / "cli")}
        return {**{key: value for key, value in os.environ.items() if not key.startswith("CODER_")}, **mine}

    def program(self, name: str, *arguments: str) -> list[str]:
        """The command line of a program in bench/programs."""
        return [sys.executable, str(Path(__file__).parent / "programs" / f"{name}.py"), *arguments]

    def make_certificate(self, address: str) -> None:
        """Of a CA made for the occasion: ca.pem, server.pem and key.pem in `directory`. Raises Unavailable."""
        try:
            import trustme
        except ImportError:
            raise Unavailable("the Python package trustme is not installed (make setup)") from None
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        certificate = authority.issue_cert(address)
        certificate.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        for index, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(str(self.directory / "server.pem"), append=index > 0)


def environment_of(place: Place, role: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Of a foreign process: a home of its own, and `extra`."""
    home = place.directory / role
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home), **extra}

"""A laptop that sleeps: `coder port-forward` and `coder ssh` stopped until the server gives up on them, then woken."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered, kill, until
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PROGRAMS = Path(__file__).parent / "programs"
LOCAL = "127.0.0.1"


@dataclass
class Place:
    """A deployment with an impatient server; an echo in the workspace; a forward and a shell of the user's."""

    deployment: Deployment
    dev: Registered
    agent: Program
    forward: Program
    shell: subprocess.Popen[bytes]
    port: int

    def connect(self) -> socket.socket:
        """A connection through the forward."""
        return socket.create_connection((LOCAL, self.port), timeout=90)

    def ask_shell(self, word: str) -> bytes:
        """A line there and back."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{word}\n".encode())
        self.shell.stdin.flush()
        return self.shell.stdout.readline()

    def signal(self, number: int) -> None:
        """To both programs of the user, if they run."""
        for process in (self.forward.process, self.shell):
            process.send_signal(number)

    def tunnels(self, status: str) -> int:
        """How many the server's log has."""
        session = (self.deployment.user.folder / ".config" / "coderv2" / "session").read_text("utf-8")
        request = urllib.request.Request(
            f"{self.deployment.url}/api/v2/connectionlog?q=type:tunnel%20status:{status}",
            headers={"Coder-Session-Token": session},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(json.load(reply)["count"])

    def sleep(self) -> None:
        """Stop both until the server has given up on both."""
        self.until_tunnels("they are known to the server", "ongoing", 2)  # again, after the sleep before
        before = self.tunnels("completed")
        self.signal(signal.SIGSTOP)
        self.until_tunnels("the server has given up on them", "completed", before + 2)

    def until_tunnels(self, what: str, status: str, count: int) -> None:
        """Wait until the log has so many."""

        def there() -> bool:
            time.sleep(0.5)  # the server limits how often anybody may ask
            return self.tunnels(status) >= count

        until(what, there)


def free_port() -> int:
    """Below those that systems choose by themselves."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        try:
            with socket.create_server((LOCAL, port)):
                return port
        except OSError:
            continue


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as exits:
        deployment = exits.enter_context(Deployment(tmp_path_factory.mktemp("asleep")))
        server = deployment.start(
            deployment.server, sys.executable, str(PROGRAMS / "impatient_server.py"), "server",
            "--http-address", f"{LOCAL}:0", "--stun-address", f"{LOCAL}:0",
            "--data-dir", str(deployment.server.folder / "data"),
        )  # fmt: skip
        deployment.port = int(server.wait_for(r"Started HTTP listener at http://\S+:(\d+)")[1])
        deployment.sign_in()
        dev = deployment.create("dev")
        agent = deployment.start_agent(dev)
        echo = deployment.start(deployment.workspace, sys.executable, str(PROGRAMS / "flood.py"), "serve")
        port = free_port()
        forward = deployment.start(
            deployment.user, "coder", "port-forward", "dev", "--output", "json",
            "--tcp", f"{LOCAL}:{port}:{echo.event('listening')['port']}",
        )  # fmt: skip
        forward.event("ready")
        shell = subprocess.Popen(
            ["coder", "ssh", "dev", "--", "while read line; do echo got $line; done"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=deployment.user.environ(),
        )  # fmt: skip
        place = Place(deployment, dev, agent, forward, shell, port)
        exits.callback(shell.communicate)
        exits.callback(shell.kill)
        exits.callback(place.signal, signal.SIGCONT)
        yield place


def echoed(sock: socket.socket, data: bytes) -> bool:
    """All of it comes back."""
    sock.sendall(data)
    return read(sock, len(data)) == data


def read(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end."""
    said = b""
    while len(said) < size and (more := sock.recv(size - len(said))):
        said += more
    return said


def test_what_was_open_goes_on(place: Place) -> None:
    with place.connect() as sock:
        assert echoed(sock, b"before")
        assert place.ask_shell("before") == b"got before\n"
        place.sleep()
        sock.sendall(b"while asleep")
        place.signal(signal.SIGCONT)
        assert read(sock, 12) == b"while asleep"
        assert echoed(sock, b"afterwards")
        assert place.ask_shell("afterwards") == b"got afterwards\n"
    with place.connect() as sock:
        assert echoed(sock, b"a new one")


def test_what_the_workspace_forgot_is_reset_and_not_a_hang(place: Place) -> None:
    with place.connect() as sock:
        assert echoed(sock, b"before")
        assert place.ask_shell("before") == b"got before\n"
        place.sleep()
        kill(place.agent)
        place.agent = place.deployment.start_agent(place.dev)
        place.signal(signal.SIGCONT)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert place.shell.wait(90) != 0

    def answers() -> bool:
        try:
            with place.connect() as sock:
                return echoed(sock, b"a new one")
        except ConnectionError:  # the first may find the way to the agent that is gone
            return False

    until("the forward works again", answers)

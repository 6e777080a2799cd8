"""SIGKILL of `coder ssh`: what it had started in the workspace ends; who lost only the server goes on."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered, until
from coder_agent.testing.tcp_shim import TcpShim
from coder_agent.vigil import GRACE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
DIRECT = re.compile(r"path to (\S+): \S+ \(pong\)")
BOUND = 3 * GRACE
"""Seconds within which the processes of a killed client end: the grace, and twice as much for a busy machine."""
ECHO = "echo $$ is here; while read line; do echo got $line; done"


class Ssh:
    """`coder ssh dev` with a shell that answers lines."""

    def __init__(self, place: Deployment, env: dict[str, str]) -> None:
        command = ["coder", "ssh", "dev", "--", ECHO]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=place.user.environ(env), cwd=place.user.folder
        )
        found = re.fullmatch(rb"(\d+) is here\n", self._line())
        assert found is not None
        self.remote = int(found[1])

    def ask(self, word: str) -> None:
        """A line there and back."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        assert self._line() == f"got {word}\n".encode()

    @property
    def remote_lives(self) -> bool:
        """Does the shell in the workspace, which is this machine?"""
        try:
            return Path(f"/proc/{self.remote}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def ssh(place: Deployment, env: dict[str, str]) -> Iterator[Ssh]:
    running = Ssh(place, env)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_the_processes_of_a_killed_client_end_and_those_of_one_without_a_server_do_not(
    place: Deployment, dev: Registered
) -> None:
    agent = place.start_agent(dev)
    with ExitStack() as middle, ExitStack() as clients:
        shim = middle.enter_context(TcpShim("127.0.0.1", place.port))
        killed = clients.enter_context(ssh(place, {}))
        cut_off = clients.enter_context(ssh(place, {"CODER_URL": f"http://127.0.0.1:{shim.port}"}))
        until("two direct paths", lambda: len(set(DIRECT.findall(agent.output))) >= 2)
        cut_off.ask("before")
        middle.close()  # its connection to the server is closed, as the killed one's is, and it finds no other
        killed.process.kill()
        began = time.monotonic()
        until("no process is left", lambda: not killed.remote_lives, timeout=BOUND)
        assert time.monotonic() - began > GRACE / 2, "not at the first silence"
        assert cut_off.remote_lives
        cut_off.ask("after")

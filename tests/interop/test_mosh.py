"""mosh through `coder port-forward --udp`: its server started by `coder ssh`, its client on a terminal."""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, interrupt
from coder_agent.testing.processes import Program

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("mosh-server") is None, reason="mosh is not installed"),
]
HERE, THERE = "127.0.0.2", "127.0.0.1"
"""Where the user's mosh finds the workspace, and where its server listens: one machine plays both."""
PORTS = 11
"""As many as people forward: 60000-60010. Those are where systems find ports for anybody, so the test has others."""


def free_range() -> int:
    """The first of `PORTS` UDP ports that nobody has."""
    while True:
        first = random.SystemRandom().randrange(10_000, 30_000)
        with ExitStack() as sockets:
            try:
                for port in range(first, first + PORTS):
                    for host in (HERE, THERE):
                        sock = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                        sock.bind((host, port))
            except OSError:
                continue
            return first


def start_forward(place: Deployment, first: int) -> Program:
    ports = f"{first}-{first + PORTS - 1}"
    forward = place.start(
        place.user, "coder", "port-forward", "dev", "--udp", f"{HERE}:{ports}:{ports}", "--output", "json"
    )
    forward.event("ready")
    return forward


@contextmanager
def mosh_client(place: Deployment, port: int, key: str) -> Iterator[int]:
    """The client's terminal. Its guesses of what the server will echo are switched off: what is seen came back."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    env = place.user.environ({"MOSH_KEY": key, "TERM": "xterm", "MOSH_PREDICTION_DISPLAY": "never"})
    client = subprocess.Popen(
        ["mosh-client", HERE, str(port)], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
    )
    os.close(slave)
    try:
        yield master
    finally:
        client.kill()
        client.wait()
        os.close(master)


def ask(terminal: int, typed: str, wanted: str) -> None:
    """Type a line and read until the answer is on the screen. An endless wait is ended by the test's time-out."""
    os.write(terminal, f"{typed}\r".encode())
    said = ""
    while not re.search(wanted, said):
        try:
            said += os.read(terminal, 65536).decode("utf-8", "replace")
        except OSError as error:
            raise AssertionError(f"mosh-client ended: {said}") from error


def test_mosh_by_a_forwarded_range_and_after_the_forward_was_started_anew(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        place.start_server()
        place.sign_in()
        place.start_agent(place.create("dev"))
        first = free_range()
        started = place.user.coder(
            "ssh", "dev", "--",
            f"env LC_ALL=C.UTF-8 mosh-server new -i {THERE} -p {first}:{first + PORTS - 1} -- /bin/sh",
        )  # fmt: skip
        found = re.search(r"MOSH CONNECT (\d+) (\S+)", started.out)
        detached = re.search(r"detached, pid = (\d+)", started.out + started.err)
        assert found is not None, str(started)
        assert detached is not None, str(started)
        try:
            forward = start_forward(place, first)
            with mosh_client(place, int(found[1]), found[2]) as terminal:
                ask(terminal, "echo $((6 * 7))-is-the-answer", "42-is-the-answer")
                assert interrupt(forward) == 0
                start_forward(place, first)  # for the server, the client now comes from another port
                ask(terminal, "echo $((7 * 7))-is-another", "49-is-another")
        finally:
            os.kill(int(detached[1]), signal.SIGTERM)

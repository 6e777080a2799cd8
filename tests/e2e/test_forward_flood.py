"""10,000 connections at once to a forward: some are served, the rest are reset at once, and nothing is left of it."""

from __future__ import annotations

import random
import re
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, until
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
FLOOD = str(Path(__file__).parent / "programs" / "flood.py")
COUNT = 10_000
LIMIT = 2000
"""`max_connections`, as it is by default."""
SMALL = 1024
"""Descriptors that many systems give a program."""
MEMORY = 150
"""Megabytes that client and agent may grow to, each. They had 87 with 2000 connections."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < COUNT + SMALL:
        pytest.skip("this system allows no program so many sockets")
    with Deployment(tmp_path_factory.mktemp("flood")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        deployment.start_agent(deployment.create("dev"), verbose=False)
        yield deployment


def peak(program: Program) -> float:
    """The most memory that a process has had, in megabytes (proc(5))."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{program.process.pid}/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) / 1000


def forward(place: Deployment, port: int, *before: str) -> tuple[Program, int]:
    """`coder port-forward` of a port; the local one is below those that systems choose by themselves."""
    with socket.socket() as sock:
        while True:
            local = random.SystemRandom().randrange(10_000, 30_000)
            try:
                sock.bind(("127.0.0.1", local))
                break
            except OSError:
                continue
    command = [*before, "coder", "port-forward", "dev", "--output", "json", "--tcp", f"127.0.0.1:{local}:{port}"]
    program = place.start(place.user, *command)
    program.event("ready")
    return program, local


def flood(place: Deployment, port: int, count: int) -> dict[str, int]:
    facts = place.start(place.user, sys.executable, FLOOD, "connect", str(port), str(count)).event("decided")
    return {name: number for name, number in facts.items() if name != "event"}


def open_now(program: Program) -> int:
    """Connections in its newest books."""
    stats = program.events("stats")
    return int(stats[-1]["forwards"][0]["active"]) if stats else 0


@pytest.mark.parametrize("descriptors", [0, SMALL], ids=["as many as there may be", "ulimit 1024"])
def test_ten_thousand_connections_at_once(place: Deployment, descriptors: int) -> None:
    server = place.start(place.workspace, sys.executable, FLOOD, "serve")
    target = server.event("listening")["port"]
    limited = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"] if descriptors else []
    program, port = forward(place, target, *limited)
    most = descriptors - 128 if descriptors else LIMIT
    if descriptors:
        assert f"may open {descriptors} files, so it holds at most {most} connections at once" in program.output
    found = flood(place, port, COUNT)
    assert found == {"answered": most, "reset": COUNT - most}
    assert program.event("failed")["reason"] == f"more than {most} connections at once"
    assert len(program.events("failed")) < 120, "said once a second, not once a connection"
    agent = next(other for other in place.programs if other.name == "coder-agent run")
    print(f"peaks: {peak(program):.0f} and {peak(agent):.0f} MB")
    assert peak(program) < MEMORY
    assert peak(agent) < MEMORY
    until("no connection is left", lambda: open_now(program) == 0)
    assert flood(place, port, 100) == {"answered": 100}
    program.stop()

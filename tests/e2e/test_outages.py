"""What goes away in the middle of a transfer: the server, the relay connection, the agent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered, kill, until
from coder_agent.testing.processes import PATIENCE, Program
from coder_agent.testing.tcp_shim import TcpShim

pytestmark = [pytest.mark.slow]
PROGRAMS = Path(__file__).parent / "programs"
MEGABYTE = 1_000_000
SIZE = 240 * MEGABYTE
PACE = 20 * MEGABYTE
"""Bytes per second: the transfer lasts 12 s, whatever the machine."""
EARLY = 20 * MEGABYTE
"""A transfer that has come so far is in full swing."""
BACK_IN_SERVICE = 60.0
"""Seconds after the server is back until new connections must work: three on a machine with nothing else to do."""


@pytest.fixture
def bytes_port(place: Deployment) -> int:
    """The port of the program in the workspace."""
    return start_bytes_server(place)


def start_bytes_server(place: Deployment) -> int:
    program = place.start(place.workspace, sys.executable, str(PROGRAMS / "bytes_server.py"))
    return int(program.event("listening")["port"])


def start_transfer(
    place: Deployment, dev: Registered, port: int, *flags: str, env: dict[str, str] | None = None
) -> Program:
    return place.start(place.user, sys.executable, str(PROGRAMS / "transfer.py"), dev.name, str(port), *flags, env=env)


def wait_bytes(transfer: Program, count: int, timeout: float = PATIENCE) -> None:
    """Until so much was transferred."""

    def look() -> bool:
        assert transfer.process.poll() is None, f"the transfer ended early:\n{transfer.output[-4000:]}"
        told = transfer.events("progress")
        return bool(told) and told[-1]["bytes"] >= count

    until(f"{count} bytes transferred", look, timeout)


def check_done(transfer: Program, timeout: float = PATIENCE) -> None:
    """It came to its end, and every byte was right."""
    assert transfer.event("done", timeout)["equal"] is True
    assert transfer.wait() == 0


def check_new_connection(place: Deployment, dev: Registered, port: int, deadline: float) -> None:
    """A fresh program reaches the workspace before `deadline` (monotonic), however often it must try."""

    def attempt() -> bool:
        return place.user.coder("ping", dev.name, "-n", "1").code == 0

    until("a new `coder ping` works", attempt, deadline - time.monotonic())
    check_done(start_transfer(place, dev, port, "get", "--size", "1000000"))


@pytest.fixture(params=["relayed", "direct"])
def way(request: pytest.FixtureRequest) -> str:
    """Which path the transfer takes."""
    return str(request.param)


@pytest.mark.parametrize("direction", ["get", "put"])
def test_a_transfer_survives_a_killed_and_restarted_server(
    place: Deployment, dev: Registered, bytes_port: int, way: str, direction: str
) -> None:
    server = place.programs[0]
    agent = place.start_agent(dev)
    transfer = start_transfer(place, dev, bytes_port, direction, f"--{way}", "--size", str(SIZE), "--pace", str(PACE))
    assert transfer.event("open")["kind"] == way
    wait_bytes(transfer, EARLY)
    kill(server)
    if way == "direct":  # it needs nobody in between
        told = len(transfer.events("progress"))
        until("the transfer goes on without a server", lambda: len(transfer.events("progress")) > told + 3)
    place.start_server()
    check_new_connection(place, dev, bytes_port, time.monotonic() + BACK_IN_SERVICE)
    check_done(transfer)
    assert agent.process.poll() is None


@pytest.mark.parametrize("direction", ["get", "put"])
@pytest.mark.parametrize("whose", ["agent", "user"])
def test_a_transfer_survives_cut_relay_connections(
    place: Deployment, dev: Registered, bytes_port: int, whose: str, direction: str
) -> None:
    with TcpShim("127.0.0.1", place.port) as shim:
        through = f"http://127.0.0.1:{shim.port}"
        place.start_agent(dev, url=through if whose == "agent" else "")
        transfer = start_transfer(  # as fast as it goes: there is much on the way when it is cut
            place, dev, bytes_port, direction, "--relayed", "--size", str(SIZE),
            env={"CODER_URL": through} if whose == "user" else None,
        )  # fmt: skip
        for share in range(1, 4):
            wait_bytes(transfer, share * SIZE // 4)
            assert shim.cut(b"GET /derp") == 1
        check_new_connection(place, dev, bytes_port, time.monotonic() + BACK_IN_SERVICE)
        check_done(transfer)


def test_a_transfer_survives_when_everything_through_a_middlebox_is_cut(
    place: Deployment, dev: Registered, bytes_port: int
) -> None:
    """Control and relay connection of the agent at once, again and again."""
    with TcpShim("127.0.0.1", place.port) as shim:
        place.start_agent(dev, url=f"http://127.0.0.1:{shim.port}")
        transfer = start_transfer(place, dev, bytes_port, "get", "--relayed", "--size", str(SIZE), "--pace", str(PACE))
        for share in range(1, 6):
            wait_bytes(transfer, share * EARLY)
            until("control and relay are both back", lambda: shim.connections >= 2)
            assert shim.cut() >= 2
        check_done(transfer)


def test_a_killed_agent_is_named_with_the_time_it_went(place: Deployment, dev: Registered, bytes_port: int) -> None:
    agent = place.start_agent(dev)
    speedtest = place.start(place.user, "coder", "speedtest", dev.name, "-t", "30s")
    speedtest.wait_for(r"^0\.00-\d+\.\d\d sec")
    kill(agent)
    assert speedtest.wait() == 1
    speedtest.wait_for(r"^error: workspace alice/dev: its agent is not connected since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    assert "Traceback" not in speedtest.output

    place.wait_status(dev, "disconnected")
    ping = place.user.coder("ping", dev.name, "-n", "1")
    assert ping.code == 1
    assert "\nerror: workspace alice/dev: its agent is not connected since " in ping.err  # after a word on waiting

    place.start_agent(dev)
    check_new_connection(place, dev, bytes_port, time.monotonic() + BACK_IN_SERVICE)

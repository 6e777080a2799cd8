"""Staying up while the network changes under a conversation: another address, another router, mappings that lapse."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.deployment import until
from coder_agent.testing.netns_deployment import Cell, Found, OutsideDeployment
from coder_agent.testing.netns_nat import NatKind
from coder_agent.testing.netns_places import Home, Visitors
from coder_agent.testing.processes import Program

pytestmark = pytest.mark.netns
PROGRAMS = Path(__file__).parents[1] / "e2e" / "programs"
PACE = 500_000
"""Bytes per second: slow, so that the transfer is under way however long the move takes."""
SECONDS = 40
BACK = 30.0
"""Seconds in which a direct path is back: interfaces are looked at every 30 s at the latest."""
RECOVERED = 2.0
"""Seconds in which an answer comes after an idle time in which the routers forgot the conversation."""
Recorder = Callable[[str, str, Found], None]


@dataclass
class Transfer:
    """Bytes that come from the workspace in mid-move."""

    program: Program

    def wait_progress(self, since: float, timeout: float = 45) -> float:
        """When bytes came after a (monotonic) time."""

        def look() -> float | None:
            assert self.program.process.poll() is None, self.program.output[-4000:]
            times = [event["at"] for event in self.program.events("progress") if event["at"] > since]
            return float(times[0]) if times else None

        return until("bytes move", look, timeout)

    def wait_direct(self, since: float, timeout: float = BACK) -> float:
        """When packets went directly after `since`, and still do."""

        def look() -> float | None:
            events = self.program.events("path")
            return float(events[-1]["at"]) if events[-1]["kind"] == "direct" and events[-1]["at"] > since else None

        return until("it is direct again", look, timeout)

    def assert_whole(self) -> None:
        """It came to its end with no byte lost or changed."""
        assert self.program.event("done", SECONDS + 30)["equal"] is True, self.program.output[-4000:]


@contextmanager
def transferring(cell: Cell, deployment: OutsideDeployment) -> Iterator[Transfer]:
    """A transfer from the cell's agent to its user, direct and under way."""
    cell.connected()
    place = deployment.place
    agent, user = deployment.machine("bytes", cell.agent_home), deployment.machine("user", cell.user_home)
    server = place.start(agent, sys.executable, str(PROGRAMS / "bytes_server.py"))
    port = str(server.event("listening")["port"])
    flags = ["--direct", "--size", str(SECONDS * PACE), "--pace", str(PACE)]
    command = [sys.executable, str(PROGRAMS / "transfer.py"), cell.workspace.name, port, "get", *flags]
    transfer = Transfer(place.start(user, *command, env=deployment.environ()))
    try:
        transfer.wait_progress(0)
        yield transfer
    finally:
        transfer.program.stop()
        server.stop()
        print(json.dumps(transfer.program.events("path"), indent=1))


def renumber(home: Home) -> None:
    """The host gets another address of the same LAN, and loses the one it had."""
    old = home.host.address4
    lan = old.rpartition(".")[0]
    home.host.batch(
        "link set eth0 down",
        f"address del {old}/24 dev eth0",
        f"address add {lan}.77/24 dev eth0",
        "link set eth0 up",
        f"route add default via {lan}.1",
    )
    home.host.address4 = f"{lan}.77"


def test_the_agent_gets_another_address(deployment: OutsideDeployment, guests: Visitors, record_pair: Recorder) -> None:
    agent, user = guests.home("agent", nat.EASY), guests.home("user", nat.EASY)
    with deployment.cell(agent, user) as cell, transferring(cell, deployment) as transfer:
        moved = time.monotonic()
        renumber(agent)
        survive("agent renumbered", transfer, moved, record_pair)


@pytest.mark.parametrize("there", [nat.EASY, nat.FULL_CONE], ids=lambda kind: kind.name)
def test_the_agent_moves_behind_another_router(
    there: NatKind, deployment: OutsideDeployment, guests: Visitors, record_pair: Recorder
) -> None:
    agent, user = guests.home("agent", nat.EASY), guests.home("user", nat.EASY)
    with deployment.cell(agent, user) as cell, transferring(cell, deployment) as transfer:
        moved = time.monotonic()
        cell.agent_home = guests.move(agent, "office", there)
        survive(f"agent moved to {there.name}", transfer, moved, record_pair)


def test_the_user_moves_behind_another_router(
    deployment: OutsideDeployment, guests: Visitors, record_pair: Recorder
) -> None:
    agent, user = guests.home("agent", nat.EASY), guests.home("user", nat.EASY)
    with deployment.cell(agent, user) as cell, transferring(cell, deployment) as transfer:
        moved = time.monotonic()
        cell.user_home = guests.move(user, "train", nat.EASY)
        survive("user moved to easy", transfer, moved, record_pair)


def survive(what: str, transfer: Transfer, moved: float, record: Recorder) -> None:
    """The conversation goes on, directly before long, and nothing is lost."""
    moving = transfer.wait_progress(moved + 0.5) - moved
    direct = transfer.wait_direct(moved) - moved
    print(f"{what}: bytes move again after {moving:.1f} s, directly after {direct:.1f} s")
    record(what, f"bytes after {moving:.1f} s", Found("direct", "", round(direct, 2)))
    transfer.wait_progress(moved + direct)
    transfer.assert_whole()


@pytest.mark.parametrize("user_kind", [nat.EASY, nat.SYMMETRIC], ids=lambda kind: kind.name)
def test_a_conversation_idle_for_longer_than_the_mapping_recovers(
    user_kind: NatKind, deployment: OutsideDeployment, guests: Visitors
) -> None:
    """Mappings last 2 s, heartbeats go every 3 s, and somebody says something every 7 s."""
    agent = guests.home("agent", nat.EASY if user_kind is nat.EASY else nat.FULL_CONE)
    user = guests.home("user", user_kind)
    for home in (agent, user):
        home.routers[0].remember_udp(2)
    with deployment.cell(agent, user, user_flags=["--talk", "7"]) as cell:
        assert cell.wait_direct(5).kind == "direct"
        cell.wait_answers(4)
        slowest = max(pong["took"] for pong in cell.user.events("pong"))
        print(f"idle for longer than the mapping: the slowest answer took {slowest:.2f} s")
        assert slowest <= RECOVERED

"""Staying up while the network changes under a conversation: another address, another router, mappings that lapse."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.deployment import until
from coder_agent.testing.netns_deployment import Cell, Found, OutsideDeployment
from coder_agent.testing.netns_nat import NatKind
from coder_agent.testing.netns_places import Home, Internet, Visitors
from coder_agent.testing.processes import Program
from coder_agent.testing.waiting import WaitMeter

pytestmark = pytest.mark.netns
PROGRAMS = Path(__file__).parents[1] / "e2e" / "programs"
PACE = 500_000
"""Bytes per second: slow, so that the transfer is under way however long the move takes."""
SECONDS = 32
PATIENCE = 90.0
"""Seconds after which nothing is waited for any more."""
STALL, BACK = 3.0, 6.0
"""Seconds for which a transfer may stand still after a move, and in which it is direct again: ten times what it takes
on a machine with nothing else to do."""
RECOVERED = 2.5
"""Seconds in which an answer comes after an idle time in which the routers forgot the conversation. Who answers a
single packet may trust the path that died; the user asks again every half second, and the fourth time has always done
it."""
Recorder = Callable[[str, str, Found], None]


@dataclass(frozen=True)
class Recovery:
    """The longest time without a byte, and how long it took until a direct path carried them. Seconds, less those in
    which our programs waited for a processor."""

    stall: float
    direct: float


@dataclass
class Transfer:
    """Bytes that come from the workspace in mid-move."""

    program: Program
    waits: WaitMeter

    def wait_progress(self, since: float, timeout: float = PATIENCE) -> float:
        """When bytes came after a (monotonic) time."""

        def look() -> float | None:
            assert self.program.process.poll() is None, self.program.output[-4000:]
            times = [event["at"] for event in self.program.events("progress") if event["at"] > since]
            return float(times[0]) if times else None

        return until("bytes move", look, timeout)

    def longest_pause(self, since: float) -> float:
        """The longest time between two pieces of news after `since`."""
        times = [event["at"] for event in self.program.events("progress")]
        return max(
            float(after - before) - self.waits.between(before, after)
            for before, after in pairwise(times)
            if after > since
        )

    def wait_direct(self, since: float, timeout: float = PATIENCE) -> float:
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
    program = place.start(user, *command, env=deployment.environ())
    with WaitMeter(lambda: [*place.programs[:1], *cell.programs, server, program]) as waits:
        transfer = Transfer(program, waits)
        try:
            transfer.wait_progress(0)
            yield transfer
        finally:
            program.stop()
            server.stop()
            print(json.dumps(program.events("path"), indent=1))


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


Place = tuple[OutsideDeployment, Visitors]


def agent_renumbered(place: Place) -> Recovery:
    """The agent's host gets another address of its LAN."""
    return recover(place, lambda guests, cell: renumber(cell.agent_home))


def agent_moved(place: Place, there: NatKind) -> Recovery:
    """The agent's host is carried to another network."""
    return recover(place, lambda guests, cell: guests.move(cell.agent_home, "office", there))


def user_moved(place: Place, there: NatKind) -> Recovery:
    """The user's host is carried to another network."""
    return recover(place, lambda guests, cell: guests.move(cell.user_home, "train", there))


def recover(place: Place, move: Callable[[Visitors, Cell], object]) -> Recovery:
    """Two easy homes, a transfer, a move in the middle of it: it goes on, directly before long, and nothing is lost."""
    deployment, guests = place
    agent, user = guests.home("agent", nat.EASY), guests.home("user", nat.EASY)
    with deployment.cell(agent, user) as cell, transferring(cell, deployment) as transfer:
        moved = time.monotonic()
        move(guests, cell)
        transfer.wait_progress(time.monotonic())
        direct = transfer.wait_direct(moved)
        transfer.wait_progress(direct)
        transfer.assert_whole()
        return Recovery(transfer.longest_pause(moved), direct - moved - transfer.waits.between(moved, direct))


def slowest_answer(place: Place, agent_kind: NatKind, user_kind: NatKind) -> Recovery:
    """Mappings last 2 s, heartbeats go every 3 s, and somebody says something every 7 s."""
    deployment, guests = place
    agent, user = guests.home("agent", agent_kind), guests.home("user", user_kind)
    for home in (agent, user):
        home.routers[0].remember_udp(2)
    with (
        deployment.cell(agent, user, user_flags=["--talk", "7"]) as cell,
        WaitMeter(lambda: [*deployment.place.programs[:1], *cell.programs]) as waits,
    ):
        direct = cell.wait_direct(PATIENCE)
        assert direct.kind == "direct"
        found_after = direct.after - waits.between(0, time.monotonic())
        cell.wait_answers(4)
        pongs = [(pong["at"], pong["took"]) for pong in cell.user.events("pong")]
        return Recovery(max(took - waits.between(at - took, at) for at, took in pongs), max(found_after, 0.0))


SCENES: dict[str, Callable[[Place], Recovery]] = {
    "agent renumbered": agent_renumbered,
    "agent moved to easy": lambda place: agent_moved(place, nat.EASY),
    "agent moved to full-cone": lambda place: agent_moved(place, nat.FULL_CONE),
    "user moved to easy": lambda place: user_moved(place, nat.EASY),
    "mappings lapse, easy": lambda place: slowest_answer(place, nat.EASY, nat.EASY),
    "mappings lapse, symmetric": lambda place: slowest_answer(place, nat.FULL_CONE, nat.SYMMETRIC),
}


@pytest.fixture(scope="module")
def scenes(internet: Internet, deployment: OutsideDeployment) -> Iterator[dict[str, Future[Recovery]]]:
    """All at once, for most of their time is waiting."""

    def play(scene: Callable[[Place], Recovery]) -> Recovery:
        with internet.visitors() as guests:
            return scene((deployment, guests))

    with ThreadPoolExecutor(len(SCENES)) as pool:
        yield {name: pool.submit(play, scene) for name, scene in SCENES.items()}


@pytest.mark.parametrize("name", SCENES, ids=lambda name: name.replace(" ", "_"))
def test_it_stays_up(name: str, scenes: dict[str, Future[Recovery]], record_pair: Recorder) -> None:
    found = scenes[name].result()
    record_pair(name, f"stalled for {found.stall:.1f} s", Found("direct", "", round(found.direct, 2)))
    assert found.stall <= (RECOVERED if name.startswith("mappings") else STALL)
    assert found.direct <= BACK

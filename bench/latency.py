"""How long things take: a ping in the tunnel, the first pong of `coder ping`, and from there to a direct path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from statistics import median
from time import time
from typing import TYPE_CHECKING, Any

from coder_agent.testing.processes import run_program

from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

PINGS = "300"
INTERVAL_MS = "5"
"""Both sides ping equally often: a machine that sleeps deeper between pings answers later."""
ECHO_PORT = "7007"


def ping_overhead(place: Place, plan: Plan) -> Iterator[Row]:
    """Medians of pings through the tunnel on a direct path, and of a bare UDP echo between the same machines."""
    place.start()
    ours, theirs = [], []
    for _ in range(plan.runs):
        env = place.environment("user")
        with run_program(*place.program("tunnel_ping", PINGS, INTERVAL_MS), host=place.user, env=env) as program:
            ours.append(_median_ms(program.event("pongs")["seconds"]))
            program.wait()
        address = place.workspace.address4
        with (
            run_program(*place.program("udp_echo", "serve", address, ECHO_PORT), host=place.workspace) as server,
            run_program(
                *place.program("udp_echo", "ping", address, ECHO_PORT, PINGS, INTERVAL_MS), host=place.user
            ) as client,
        ):
            server.event("ready")
            theirs.append(_median_ms(client.event("pongs")["seconds"]))
            client.wait()
    yield Row.of("ping_overhead", "ms", ours, theirs, "UDP echo")


def _median_ms(seconds: list[float]) -> float:
    return median(seconds) * 1e3


def first_contact(place: Place, plan: Plan) -> Iterator[Row]:
    """From starting the command to its first pong; and from there to the first pong of a direct path."""
    place.start()
    first, direct = [], []
    for _ in range(max(plan.runs, 5)):
        started = time()
        said: dict[str, Any] = json.loads(place.coder("ping", "dev", "-n", "60", "--wait", "20ms", "--output", "json"))
        pongs = [pong for pong in said["pongs"] if pong["latency_ms"] is not None]
        at_first = _unix(pongs[0])
        at_direct = next((_unix(pong) for pong in pongs if pong["direct"]), None)
        if at_direct is None:
            raise RuntimeError("no direct path within 60 pings")
        first.append(at_first - started)
        direct.append(at_direct - at_first)
    yield Row.of("first_pong", "s", first)
    yield Row.of("time_to_direct", "s", direct)


def _unix(pong: dict[str, Any]) -> float:
    return datetime.fromisoformat(pong["time"]).timestamp()

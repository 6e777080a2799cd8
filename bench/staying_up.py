"""What interrupts a conversation, and what an idle one costs: cuts of the direct path, sleep, packets at rest."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coder_agent.testing.processes import Program, run_program

from .place import Place, wait_until
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

PORT = "7011"
RATE = 50_000_000 // 8
CUTS = 50
CUT_SECONDS = 0.9
"""Shorter than a doubt (1 s), so that the path returns at once; longer than what is allowed."""
SLEEP_SECONDS = 45.0
"""An hour as far as mappings and our own notice of sleep (30 s) are concerned; WireGuard's 180 s are forgotten then."""
IDLE_SECONDS = 60.0
REST_SECONDS = 60.0
"""A session rests 45 s after its last byte (magicsock.constants.RESTING_AFTER)."""
CUT = """
table inet cut {{
    chain in {{ type filter hook input priority 0; {what} drop; }}
    chain out {{ type filter hook output priority 0; {what} drop; }}
}}
"""
CUT_UDP = CUT.format(what="meta l4proto udp")
CUT_ALL = CUT.format(what="meta l4proto { tcp, udp }")


def failover(place: Place, plan: Plan) -> Iterator[Row]:
    """The longest silence of a 50 Mbit/s stream after each of 50 cuts of the direct path; the row is their 99th
    percentile, which of 50 is the longest."""
    place.start()
    with _stream(place, RATE) as user:
        stalls = [_cut_once(place, user) for _ in range(CUTS)]
        if user.events("wrong"):
            raise RuntimeError("bytes were lost or changed")
        if user.process.poll() is not None:
            raise RuntimeError(f"the stream ended: {user.output[-2000:]}")
    row = Row.of("failover_stall", "ms p99", [1e3 * stall for stall in stalls])
    row.ours = max(row.runs)
    yield row


def _cut_once(place: Place, user: Program) -> float:
    wait_until(lambda: user.events("path")[-1]["kind"] == "direct", "it is direct")
    time.sleep(0.5 + random.random())  # any phase of heartbeats and pulses
    at = time.monotonic()
    place.workspace.filter(CUT_UDP)
    time.sleep(CUT_SECONDS)
    place.workspace.run("nft", "delete table inet cut")
    time.sleep(0.6)
    return max((gap["seconds"] for gap in user.events("gap") if gap["at"] > at), default=0.05)


def wake(place: Place, plan: Plan) -> Iterator[Row]:
    """The user's machine sleeps, the network forgets it; then a keystroke: until its echo."""
    place.start()
    times = []
    for _ in range(max(plan.runs, 1)):
        with _stream(place, 0) as user:
            _keystroke(user)
            pid = _pid_of(user)
            os.kill(pid, signal.SIGSTOP)
            place.user.filter(CUT_ALL)
            time.sleep(SLEEP_SECONDS)
            place.user.run("nft", "delete table inet cut")
            os.kill(pid, signal.SIGCONT)
            times.append(_keystroke(user))
    yield Row.of("wake", "s", times)


def _keystroke(user: Program) -> float:
    """Seconds until the echo of one byte."""
    heard, at = len(user.events("echo")), time.monotonic()
    os.kill(_pid_of(user), signal.SIGUSR1)
    wait_until(lambda: len(user.events("echo")) > heard, "the echo comes back")
    return float(user.events("echo")[-1]["at"]) - at


def _pid_of(user: Program) -> int:
    return user.process.pid  # `ip netns exec` replaces itself by the program


def idle(place: Place, plan: Plan) -> Iterator[Row]:
    """Packets that leave a user's machine per second, with an open but silent connection to one workspace."""
    place.start()
    with _stream(place, 0) as user:
        _keystroke(user)
        time.sleep(REST_SECONDS)
        before = _sent(place)
        time.sleep(IDLE_SECONDS)
        yield Row.of("idle_packets", "packets/s", [(_sent(place) - before) / IDLE_SECONDS])


def _sent(place: Place) -> int:
    lines = place.user.run("cat", "/proc/net/dev").splitlines()[2:]
    return sum(int(line.split(":")[1].split()[9]) for line in lines if not line.strip().startswith("lo:"))


@contextmanager
def _stream(place: Place, rate: int) -> Iterator[Program]:
    place.workspace.run("ip", "link", "set", "lo", "up")
    env = place.environment("user")
    with (
        run_program(*place.program("steady", "serve", PORT, str(rate)), host=place.workspace) as server,
        run_program(*place.program("steady", "watch", PORT), host=place.user, env=env) as user,
    ):
        server.event("ready")
        user.event("listening")
        yield user

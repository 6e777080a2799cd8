"""What `coder port-forward` costs: one stream, short connections, a round trip, and UDP."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from coder_agent.testing.processes import Program, run_program

from .place import BIN, Place, need, wait_until
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

LOCAL, LOCAL_PORT, IPERF_PORT = "127.0.0.1", 7070, 7071
CONNECTIONS, AT_ONCE = 6000, 64
PINGS = 500
UDP_RATE, UDP_SIZE = "50M", "1200"
UDP_WINDOW = "208K"
"""iperf3's own socket buffer: what Linux gives without being asked."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The two processes of ours that forward, and a program in the workspace."""

    client: Program
    agent: Program
    program: Program


@contextmanager
def forwarding(place: Place, port: int | None, *command: str) -> Iterator[Forwarding]:
    """`command` runs in the workspace on loopback, its `port` (None: it says which) is the user's LOCAL_PORT."""
    place.start_server()
    with ExitStack() as exits:
        agent = exits.enter_context(place.agent())
        program = exits.enter_context(run_program(*command, host=place.workspace))
        port = port or program.event("ready")["port"]
        spec = f"{LOCAL_PORT}:{port}"
        client = exits.enter_context(
            run_program(
                str(BIN / "coder"), "port-forward", "dev", "--output", "json", "--tcp", spec, "--udp", spec,
                host=place.user, env=place.environment("user"),
            )
        )  # fmt: skip
        client.event("ready")
        wait_until(lambda: "direct (" in client.output, "a direct path")
        yield Forwarding(client, agent, program)


def iperf_server() -> list[str]:
    """iperf3 on the workspace's loopback."""
    return [need("iperf3", "iperf3"), "-s", "-B", LOCAL, "-p", str(IPERF_PORT), "--forceflush"]


def iperf(place: Place, plan: Plan, *flags: str) -> dict[str, Any]:
    """What iperf3 says at the end, through the forward; again while its server is busy with the last client."""
    command = ["iperf3", "-J", "-c", LOCAL, "-p", str(LOCAL_PORT), "-t", f"{plan.seconds:g}", *flags]
    for _ in range(20):
        done = subprocess.run(
            ["ip", "netns", "exec", place.user.name, *command], capture_output=True, text=True, check=False, timeout=60
        )
        document: dict[str, Any] = json.loads(done.stdout)
        if "error" not in document:
            end: dict[str, Any] = document["end"]
            return end
        if "busy" not in document["error"]:
            break
    raise RuntimeError(f"iperf3: {document['error']}")


def stream(place: Place, plan: Plan) -> Iterator[Row]:
    """One TCP stream of iperf3 through a forward, and `coder speedtest`, in turn."""
    with forwarding(place, IPERF_PORT, *iperf_server()):
        for way, flags in (("down", ["-R"]), ("up", [])):
            ours, theirs = [], []
            for _ in range(plan.runs):
                ours.append(iperf(place, plan, *flags)["sum_received"]["bits_per_second"] / 1e6)
                theirs.append(place.speedtest(plan.seconds, "--direct", "--direction", way))
            yield Row.of("forward_stream", f"Mbit/s {way}", ours, theirs, "coder speedtest")


def connects(place: Place, plan: Plan) -> Iterator[Row]:
    """Short connections for each second of CPU time of the busier process of ours."""
    with forwarding(place, None, *place.program("short_connections", "serve", LOCAL)) as running:
        rates = []
        for _ in range(plan.runs):
            before = [cpu_seconds(running.client), cpu_seconds(running.agent)]
            numbers = (str(LOCAL_PORT), str(CONNECTIONS), str(AT_ONCE))
            command = place.program("short_connections", "connect", LOCAL, *numbers)
            with run_program(*command, host=place.user) as load:
                done = load.event("done", timeout=120)
                load.wait()
            if done["failed"]:
                raise RuntimeError(f"{done['failed']} of {CONNECTIONS} connections failed")
            after = [cpu_seconds(running.client), cpu_seconds(running.agent)]
            rates.append(CONNECTIONS / max(b - a for a, b in zip(before, after, strict=True)))
        yield Row.of("forward_connects", "per s and core", rates)


def latency(place: Place, plan: Plan) -> Iterator[Row]:
    """64 bytes there and back on one connection: forwarded, and straight over the Ethernet."""
    address = None
    with forwarding(place, None, *place.program("short_connections", "serve", LOCAL)):
        address = place.workspace.address4
        with run_program(*place.program("short_connections", "serve", address), host=place.workspace) as bare:
            port = bare.event("ready")["port"]
            ours, theirs = [], []
            for _ in range(plan.runs):
                ours.append(_ping(place, LOCAL, LOCAL_PORT))
                theirs.append(_ping(place, address, port))
        yield Row.of("forward_latency", "ms", ours, theirs, "TCP")


def _ping(place: Place, address: str, port: int) -> float:
    command = place.program("short_connections", "ping", address, str(port), str(PINGS))
    with run_program(*command, host=place.user) as program:
        seconds: list[float] = program.event("pongs")["seconds"]
        program.wait()
    return median(seconds) * 1e3


def udp(place: Place, plan: Plan) -> Iterator[Row]:
    """Datagrams of iperf3 that do not arrive, of 50 Mbit/s. The worst run counts: nothing is nothing."""
    with forwarding(place, IPERF_PORT, *iperf_server()):
        for way, flags in (("down", ["-R"]), ("up", [])):
            lost = []
            for _ in range(plan.runs):
                end = iperf(place, plan, "-u", "-b", UDP_RATE, "-l", UDP_SIZE, "-w", UDP_WINDOW, *flags)
                lost.append(float(end["sum"]["lost_percent"]))
            row = Row.of("forward_udp", f"% lost {way}", lost)
            row.ours = max(lost)
            yield row


def cpu_seconds(program: Program) -> float:
    """CPU time that a process has used (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

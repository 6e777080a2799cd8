"""Server, agent and user on machines of their own: which way their packets go, and what happens when that way ends."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, Registered, interrupt, until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import Program
from coder_agent.testing.waiting import WaitMeter

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]
PROGRAMS = Path(__file__).parent / "programs"
MEGABYTE = 1_000_000


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Deployment]:
    """Three machines on one Ethernet; server and user are ready."""
    with Lab() as lab:
        hosts = (lab.host("server"), lab.host("user"), lab.host("agent"))
        lab.switch(*hosts)
        with Deployment(tmp_path, hosts[0].address4, hosts) as deployment:
            deployment.start_server()
            deployment.sign_in()
            yield deployment


@pytest.fixture
def waits(apart: Deployment) -> Iterator[WaitMeter]:
    """What the machine keeps our programs from doing."""
    with WaitMeter(lambda: apart.programs) as meter:
        yield meter


def block_udp(host: Host) -> None:
    """What arrives by UDP is lost. At the receiver: a drop on a sender's own way out would be an error that it sees."""
    host.run("nft", "add table inet cut")
    host.run("nft", "add chain inet cut arriving { type filter hook input priority 0; }")
    host.run("nft", "add rule inet cut arriving meta l4proto udp drop")


def cure(host: Host) -> None:
    """UDP arrives again."""
    host.run("nft", "delete table inet cut")


def workspace_host(place: Deployment) -> Host:
    assert place.workspace.host is not None
    return place.workspace.host


def test_with_udp_allowed_it_goes_direct(apart: Deployment) -> None:
    dev = apart.create("dev")
    apart.start_agent(dev)
    address = workspace_host(apart).address4
    ping = apart.start(apart.user, "coder", "ping", "dev", "--wait", "200ms")
    ping.wait_for(rf"^pong from dev p2p via ({re.escape(address)}|\[fd77:.*\]):\d+ in ")
    assert interrupt(ping) == 0, ping.output
    assert "you are connected directly" in ping.output

    speedtest = apart.user.coder("speedtest", "dev", "--direct", "-t", "1s")
    assert speedtest.code == 0, str(speedtest)
    assert re.search(r"^[\d.]+ms via direct$", speedtest.err, re.MULTILINE)
    assert megabits(speedtest.out) > 1


def test_with_udp_blocked_it_stays_relayed_and_says_so(apart: Deployment) -> None:
    dev = apart.create("dev")
    block_udp(workspace_host(apart))
    apart.start_agent(dev)
    ping = apart.user.coder("ping", "dev", "-n", "4", "--wait", "200ms")
    assert ping.code == 0, str(ping)
    assert ping.out.count("proxied via DERP(Coder Embedded Relay)") == 4, str(ping)
    assert "through the relay Coder Embedded Relay, not directly" in ping.err
    assert re.search(r"tried \S+ \(named by .*\): \d+ pings?, 0 answered", ping.err), str(ping)

    speedtest = apart.user.coder("speedtest", "dev", "-t", "1s")
    assert speedtest.code == 0, str(speedtest)
    assert re.search(r"^[\d.]+ms via coder$", speedtest.err, re.MULTILINE)
    assert megabits(speedtest.out) > 1


def test_waiting_for_a_direct_path_that_cannot_be_ends_with_the_reason(apart: Deployment) -> None:
    dev = apart.create("dev")
    block_udp(workspace_host(apart))
    apart.start_agent(dev)
    speedtest = apart.user.coder("speedtest", "dev", "--direct", "-t", "1s", timeout=90)
    assert speedtest.code == 1, str(speedtest)
    assert "Waiting for a direct connection... (" in speedtest.err
    assert re.search(r"^error: workspace alice/dev: no direct path within \d+ s", speedtest.err, re.MULTILINE)
    assert re.search(r"^hint: ", speedtest.err, re.MULTILINE)


@pytest.mark.parametrize("direction", ["get", "put"])
def test_a_cut_direct_path_is_relayed_within_7_s_and_comes_back(
    apart: Deployment, waits: WaitMeter, direction: str
) -> None:
    dev = apart.create("dev")
    apart.start_agent(dev)
    transfer = start_transfer(apart, dev, direction, 40 * 5 * MEGABYTE)
    wait_progress(transfer, time.monotonic())
    assert newest(transfer, "path")["kind"] == "direct"

    block_udp(workspace_host(apart))
    cut = time.monotonic()
    until("it is relayed", lambda: newest(transfer, "path")["kind"] == "relayed")
    wait_progress(transfer, newest(transfer, "path")["at"])
    times = [event["at"] for event in transfer.events("progress")]
    longest = max(after - before - waits.between(before, after) for before, after in itertools.pairwise(times))
    assert longest <= 7.0, f"nothing moved for {longest:.1f} s; cut at {cut}: {transfer.output[-6000:]}"

    cure(workspace_host(apart))
    until("it is direct again", lambda: newest(transfer, "path")["kind"] == "direct")
    wait_progress(transfer, newest(transfer, "path")["at"])
    assert transfer.event("done", 90)["equal"] is True
    assert transfer.wait() == 0


def test_an_agent_whose_machine_vanished_is_named_with_the_time_it_went(apart: Deployment) -> None:
    """Nobody closes a connection: the server must find out by itself, and the user hears it from the server."""
    dev = apart.create("dev")
    apart.start_agent(dev)
    speedtest = apart.start(apart.user, "coder", "speedtest", "dev", "-t", "5m", "--direction", "up")
    speedtest.wait_for(r"^0\.00-\d+\.\d\d sec")
    workspace_host(apart).run("sh", "-c", "ip link set $(ls /sys/class/net | grep -v lo) down")
    assert speedtest.wait() == 1
    speedtest.wait_for(r"^error: workspace alice/dev: its agent is not connected since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    assert "Traceback" not in speedtest.output
    ping = apart.user.coder("ping", dev.name, "-n", "1")
    assert ping.code == 1
    assert "\nerror: workspace alice/dev: its agent is not connected since " in ping.err  # after a word on waiting

    workspace_host(apart).run("sh", "-c", "ip link set $(ls /sys/class/net | grep -v lo) up")
    apart.wait_status(dev, "connected")
    assert apart.user.coder("ping", dev.name, "-n", "1").code == 0


def start_transfer(place: Deployment, dev: Registered, direction: str, size: int) -> Program:
    """A direct transfer that takes 40 s on any machine."""
    server = place.start(place.workspace, sys.executable, str(PROGRAMS / "bytes_server.py"))
    port = str(server.event("listening")["port"])
    flags = ["--direct", "--size", str(size), "--pace", str(size // 40)]
    return place.start(place.user, sys.executable, str(PROGRAMS / "transfer.py"), dev.name, port, direction, *flags)


def wait_progress(transfer: Program, since: float) -> None:
    """Until bytes moved after the time `since`."""

    def look() -> bool:
        assert transfer.process.poll() is None, transfer.output[-4000:]
        events = transfer.events("progress")
        return bool(events) and events[-1]["at"] > since

    until("bytes move", look)


def newest(transfer: Program, event: str) -> dict[str, Any]:
    """The last event of a kind."""
    return transfer.events(event)[-1]


def megabits(table: str) -> float:
    """The bandwidth in the last line of a speed test."""
    found = re.findall(r"([\d.]+) Mbits/sec$", table, re.MULTILINE)
    assert found, table
    return float(found[-1])

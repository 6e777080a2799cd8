"""`coder ping` and `coder path` on real machines: the cause, its evidence, a live view, and a report that replays."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, interrupt
from coder_agent.testing.netns import Host, Lab, unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]


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


def workspace_host(place: Deployment) -> Host:
    assert place.workspace.host is not None
    return place.workspace.host


def block_udp(host: Host) -> None:
    """What arrives by UDP is lost."""
    host.run("nft", "add table inet cut")
    host.run("nft", "add chain inet cut arriving { type filter hook input priority 0; }")
    host.run("nft", "add rule inet cut arriving meta l4proto udp drop")


def test_udp_blocked_at_the_workspace_is_told_and_replayed(apart: Deployment, tmp_path: Path) -> None:
    dev = apart.create("dev")
    block_udp(workspace_host(apart))
    apart.start_agent(dev)
    report = tmp_path / "r.json"
    flags = ("-n", "3", "--wait", "500ms", "-o", "json", "--report", str(report))
    ping = apart.user.coder("ping", "dev", *flags)
    assert ping.code == 0, str(ping)
    verdict = ping.json()["verdict"]
    assert ping.json()["counters"]["magicsock.path-relayed"] >= 1
    assert verdict["code"] == "udp_blocked_there", str(ping)
    assert verdict["path"] == "relayed"
    assert all(fix["code"] for remedy in verdict["fixes"] for fix in remedy["all_of"])
    assert {"group": "agent", "code": "no_udp"}.items() <= max(
        ping.json()["diagnostics"], key=lambda one: one["code"] == "no_udp"
    ).items()
    assert "through the relay Coder Embedded Relay, not directly" in ping.err
    assert re.search(r"relayed: the workspace's network blocks UDP \[udp_blocked_there\]", ping.err)
    assert workspace_host(apart).address4 not in report.read_text()

    replay = apart.user.coder("lab", "replay", str(report), "-o", "json")
    assert replay.code == 0, str(replay)
    assert replay.json()["same"] is True
    assert replay.json()["replayed"]["code"] == "udp_blocked_there"


def test_the_user_who_forbids_direct_paths_is_told_so(apart: Deployment) -> None:
    apart.start_agent(apart.create("dev"))
    path = apart.user.coder("path", "dev", "-o", "json", "--disable-direct-connections")
    assert path.code == 0, str(path)
    document = path.json()
    assert document["path"]["kind"] == "relayed"
    assert document["verdict"]["code"] == "blocked_by_rule_here"
    assert "--disable-direct-connections" in document["verdict"]["summary"]


def test_a_watched_path_tells_of_a_cut_as_it_happens_and_ends_cleanly(apart: Deployment) -> None:
    apart.start_agent(apart.create("dev"))
    watch = apart.start(apart.user, "coder", "path", "dev", "--watch", "-o", "json")
    watch.wait_for(r'"kind": "direct"')
    block_udp(workspace_host(apart))
    watch.wait_for(r'"kind": "relayed"')
    assert interrupt(watch) == 0
    lines = [json.loads(line) for line in watch.output.splitlines() if line.startswith("{")]
    assert [line["path"]["kind"] for line in lines if line["path"]["kind"] != "none"][-1] == "relayed"
    assert all(line["time"] and line["reason"] and line["verdict"]["code"] for line in lines)
    assert "Traceback" not in watch.output

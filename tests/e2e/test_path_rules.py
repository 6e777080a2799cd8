"""Rules about paths, from the server's flag or a command to what packets do: machines of their own, real processes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, Registered, interrupt, until
from coder_agent.testing.netns import Lab, unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@contextmanager
def started(lab: Lab, folder: Path, *flags: str) -> Iterator[tuple[Deployment, Registered]]:
    """Server, user and agent, each on a machine of its own on one Ethernet."""
    hosts = (lab.host("server"), lab.host("user"), lab.host("agent"))
    lab.switch(*hosts)
    with Deployment(folder, hosts[0].address4, hosts) as place:
        place.start_server(*flags)
        place.sign_in()
        dev = place.create("dev")
        place.start_agent(dev)
        yield place, dev


def paths(place: Deployment) -> dict[str, Any]:
    """What the server shows of the workspace's first agent."""
    workspace = json.loads(place.user.coder("list", "--output", "json").out)[0]
    assert place.user.host is not None
    token = (place.user.folder / ".config/coderv2/session").read_text().strip()
    url = f"{place.url}/api/v2/workspaces/{workspace['id']}/paths"
    document = place.user.host.run("curl", "-s", "-H", f"Coder-Session-Token: {token}", url)
    agents: list[dict[str, Any]] = json.loads(document)["agents"]
    return agents[0]


def test_a_rule_for_a_workspace_holds_at_once_and_wishes_against_it_are_refused(lab: Lab, tmp_path: Path) -> None:
    with started(lab, tmp_path) as (place, dev):
        pings = place.start(place.user, "coder", "ping", dev.name, "-n", "200", "--wait", "200ms")
        pings.wait_for("^pong from dev p2p via ")
        shown = until("the agent reports the path", lambda: [p for p in paths(place)["peers"] if p["kind"] == "direct"])
        assert shown[0]["verdict"]["path"] == "direct"

        changed = place.user.coder("path-rules", dev.name, "--direct", "never", "--output", "json")
        assert changed.code == 0, str(changed)
        assert json.loads(changed.out)["effective"]["direct"] == "never"
        pings.wait_for(r"^pong from dev proxied via DERP\(Coder Embedded Relay\)")
        pings.stop()

        refused = place.user.coder("ping", dev.name, "-n", "1", "--direct-only")
        assert refused.code == 1
        refusal = "--direct-only was asked for, but the deployment's rule for alice/dev blocks direct connections"
        assert refused.err.startswith(f"error: {refusal}\nhint: ")
        ping = place.user.coder("ping", dev.name, "-n", "5", "--wait", "200ms")
        assert ping.out.count("proxied via DERP") == 5, str(ping)

        assert place.user.coder("path-rules", dev.name, "--clear").code == 0
        direct = place.start(place.user, "coder", "ping", dev.name, "--wait", "200ms")
        direct.wait_for("p2p via")
        assert interrupt(direct) == 0, direct.output
        only4 = place.user.coder("ping", dev.name, "-n", "10", "--wait", "200ms", "--no-ipv6", "--direct-only")
        assert re.search(r"p2p via 10\.", only4.out), str(only4)
        assert "[fd77" not in only4.out


def test_a_rule_of_the_deployment_stands_above_everything(lab: Lab, tmp_path: Path) -> None:
    with started(lab, tmp_path, "--block-ipv6", "--require-direct-connections") as (place, dev):
        ping = place.user.coder("ping", dev.name, "-n", "5", "--wait", "200ms")
        assert ping.code == 0, str(ping)
        assert re.search(r"p2p via 10\.", ping.out), str(ping)
        assert "[fd77" not in ping.out
        refused = place.user.coder("path-rules", dev.name, "--direct", "never")
        assert refused.code == 1
        assert "the deployment allows direct connections only" in refused.err
        refused = place.user.coder("ping", dev.name, "--disable-direct-connections")
        assert refused.code == 1
        assert "the deployment allows direct connections only" in refused.err


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_where_direct_connections_are_blocked_no_udp_leaves_either_machine(lab: Lab, tmp_path: Path) -> None:
    """No disco, no WireGuard, no STUN, no port mapping, no multicast: relays speak TCP."""
    hosts = (lab.host("server"), lab.host("user"), lab.host("agent"))
    lab.switch(*hosts)
    with Deployment(tmp_path, hosts[0].address4, hosts) as place:
        place.start_server()
        place.sign_in()
        dev = place.create("dev")
        assert place.user.coder("path-rules", dev.name, "--direct", "never").code == 0
        captures = [
            place.start(machine, "tcpdump", "-l", "-n", "-i", "any", "udp") for machine in (place.user, place.workspace)
        ]
        for capture in captures:
            capture.wait_for("listening on any")
        place.start_agent(dev)
        ping = place.user.coder("ping", dev.name, "-n", "10", "--wait", "200ms")
        assert ping.out.count("proxied via DERP") == 10, str(ping)
        for capture in captures:
            assert " UDP" not in capture.output
            interrupt(capture)
            capture.wait_for("^0 packets captured")

"""Blocked means blocked: with direct connections disabled not one UDP packet leaves either end, and nobody is told an
endpoint. Judged by packet captures on both LANs and on the internet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.netns import Host, Lab
from coder_agent.testing.netns_capture import Capture, capture, find_tcpdump
from coder_agent.testing.netns_deployment import OutsideDeployment, Tls
from coder_agent.testing.netns_places import Internet, Visitors
from coder_agent.testing.processes import PATIENCE

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(find_tcpdump() is None, reason="tcpdump is not installed"),
]
ANSWERS = 8
"""Answers through the tunnel, 0.2 s apart, that a conversation lasts: looking for a path begins with its first packet,
and is repeated within it."""


@dataclass
class Seen:
    """What a conversation was, seen from everywhere."""

    captures: dict[str, Capture]
    evidence: dict[str, Any]
    agent: str

    def udp(self) -> list[str]:
        """Every UDP packet on both LANs and on the internet."""
        return [f"{where}: {line}" for where, found in self.captures.items() for line in found.lines]


def converse(
    deployment: OutsideDeployment,
    guests: Visitors,
    folder: Path,
    agent_flags: list[str],
    user_flags: list[str],
    *,
    direct: bool = False,
) -> Seen:
    """Two easy homes talk for a while, from the start of both programs to their end; if it comes to that, `direct`."""
    agent, user = guests.home("agent", nat.EASY), guests.home("user", nat.EASY)
    with ExitStack() as exits:
        wires: dict[str, tuple[Host, str]] = {
            "agent's LAN": (agent.host, "eth0"),
            "user's LAN": (user.host, "eth0"),
            "internet": (guests.internet.bridge, "br0"),
            "agent's line": (agent.routers[0].host, "wan"),
            "user's line": (user.routers[0].host, "wan"),
        }
        captures = {
            where: exits.enter_context(capture(host, device, folder, "udp")) for where, (host, device) in wires.items()
        }
        with deployment.cell(agent, user, agent_flags=agent_flags, user_flags=user_flags) as cell:
            cell.connected()
            cell.wait_answers(ANSWERS)
            if direct:
                cell.wait_direct(PATIENCE)
            evidence = cell.evidence()
            cell.agent.stop()
    return Seen(captures, evidence, cell.agent.output)


def test_without_a_block_the_captures_see_it_all(
    deployment: OutsideDeployment, guests: Visitors, tmp_path: Path
) -> None:
    """The control: what the others miss would have been seen."""
    seen = converse(deployment, guests, tmp_path, [], [], direct=True)
    assert seen.evidence["kind"] == "direct"
    assert all(found.lines for where, found in seen.captures.items() if where != "internet"), seen.captures
    assert seen.evidence["theirs"]
    assert seen.evidence["own"]


def test_a_client_that_disables_direct_connections_sends_no_udp(
    deployment: OutsideDeployment, guests: Visitors, tmp_path: Path
) -> None:
    """The agent still asks STUN servers and offers its addresses, for others; the user neither asks nor answers."""
    seen = converse(deployment, guests, tmp_path, [], ["--relayed"])
    assert_relayed(seen)
    assert seen.captures["user's LAN"].lines == []
    assert seen.captures["user's line"].lines == []
    assert seen.evidence["own"] == []


def test_an_agent_that_disables_direct_connections_sends_no_udp(
    deployment: OutsideDeployment, guests: Visitors, tmp_path: Path
) -> None:
    seen = converse(deployment, guests, tmp_path, ["--disable-direct-connections"], [])
    assert_relayed(seen)
    assert seen.captures["agent's LAN"].lines == []
    assert seen.captures["agent's line"].lines == []
    assert seen.evidence["theirs"] == []


def test_a_deployment_that_blocks_direct_connections_has_no_udp_at_all(tmp_path: Path) -> None:
    with blocked_deployment(tmp_path) as (deployment, internet), internet.visitors() as guests:
        seen = converse(deployment, guests, tmp_path, [], [])
    assert_relayed(seen)
    assert seen.udp() == []
    assert seen.evidence["theirs"] == []
    assert seen.evidence["own"] == []


def assert_relayed(seen: Seen) -> None:
    """No direct path, none tried."""
    assert seen.evidence["kind"] == "relayed"
    assert [candidate for candidate in seen.evidence["candidates"] if candidate["sent"]] == []


@contextmanager
def blocked_deployment(folder: Path) -> Iterator[tuple[OutsideDeployment, Internet]]:
    """A server of its own that allows no direct connections."""
    with Lab() as lab:
        internet = Internet(lab)
        host = internet.server("server", 2)
        with OutsideDeployment(folder / "blocked", host, Tls.issue(folder, host.address4)) as deployment:
            deployment.start("--block-direct-connections")
            yield deployment, internet

"""Fifteen pairs of places, in real kernels with real processes: direct by what means, or relayed because of what.

The id of a case says the pair (testing/netns_pairs.py): where the agent is, and where the user is. How long each took
stands in build/natlab.json and at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coder_agent.testing.netns_deployment import Cell, Found, OutsideDeployment
from coder_agent.testing.netns_pairs import PAIRS, Pair
from coder_agent.testing.netns_places import Visitors
from coder_agent.testing.netns_upnp import find_miniupnpd
from coder_agent.verdict.causes import Cause

pytestmark = pytest.mark.netns
Recorder = Callable[[str, str, Found], None]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name.replace(" ", "_"))
def test_pair(
    pair: Pair, guests: Visitors, deployment: OutsideDeployment, record_pair: Recorder, tmp_path: Path
) -> None:
    if pair.upnp and find_miniupnpd() is None:
        pytest.skip("miniupnpd is not installed")
    agent, user = pair.build(guests, tmp_path)
    with deployment.cell(agent, user, run_flags=pair.run_flags) as cell:
        judge(pair, cell, record_pair)


def judge(pair: Pair, cell: Cell, record: Recorder) -> None:
    """The path that is there, by its address; what was tried, by the counts; and what the product says of it."""
    found, outcome = cell.wait_direct(pair.patience), pair.outcome
    evidence = cell.evidence()
    record(pair.name, evidence["verdict"], found)
    print(f"{pair.name}: {evidence['summary']} [{evidence['verdict']}]")
    assert found.kind == ("direct" if outcome.is_direct else "relayed"), evidence
    if outcome.is_direct:
        assert means(cell, found) == place_of(outcome), found
    else:
        assert not any(candidate["answered"] for candidate in evidence["candidates"])
    assert evidence["verdict"] in (outcome, pair.says)


def place_of(outcome: Cause) -> str:
    """Where the agent's address must lie for this outcome to be true."""
    if outcome is Cause.DIRECT_LAN:
        return "LAN"
    if outcome is Cause.DIRECT_IPV6:
        return "IPv6"
    return "itself" if outcome is Cause.DIRECT_PUBLIC else "router"


def means(cell: Cell, found: Found) -> str:
    """What the address that the user sends to is."""
    agent = cell.agent_home
    if found.host == agent.host.address4:
        return "LAN" if agent.routers else "itself"
    if found.host == agent.host.address6:
        return "IPv6"
    return "router" if found.host == agent.outside else "nowhere"

"""An endpoint that somebody configured for a port that a router forwards: the only way in, as nothing else finds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.netns_deployment import OutsideDeployment
from coder_agent.testing.netns_places import Visitors
from coder_agent.testing.processes import PATIENCE

pytestmark = pytest.mark.netns
PORT = 41641
FORWARDING = replace(nat.SYMMETRIC, name="symmetric-forwarding", forwards=(PORT,))
FIND_NOTHING = f"[network]\nlisten_port = {PORT}\nbirthday = false\n[plugins.nat_traversal]\nstun_local_port = false\n"
LOOK_FOR = 6.0
"""Seconds after the first answer in which nothing may be found; through a configured endpoint it takes 0.2."""


def test_a_forwarded_endpoint_from_the_configuration_is_used(
    deployment: OutsideDeployment, guests: Visitors, tmp_path: Path
) -> None:
    agent, user = guests.home("agent", FORWARDING), guests.home("user", nat.SYMMETRIC)
    outside = agent.routers[0].outside
    config = tmp_path / "config.toml"
    config.write_text(f'{FIND_NOTHING}endpoints = ["{outside}:{PORT}"]\n')
    with deployment.cell(agent, user, agent_flags=["--config", str(config)]) as cell:
        found = cell.wait_direct(PATIENCE)
        assert (found.kind, found.addr) == ("direct", f"{outside}:{PORT}")
        assert f"{outside}:{PORT}" in cell.evidence()["theirs"]


def test_without_it_the_same_forward_is_not_found(
    deployment: OutsideDeployment, guests: Visitors, tmp_path: Path
) -> None:
    """The control: two symmetric NATs, guessing off."""
    config = tmp_path / "config.toml"
    config.write_text(FIND_NOTHING)
    agent, user = guests.home("agent", FORWARDING), guests.home("user", nat.SYMMETRIC)
    with deployment.cell(agent, user, agent_flags=["--config", str(config)]) as cell:
        assert cell.wait_direct(LOOK_FOR).kind == "relayed"

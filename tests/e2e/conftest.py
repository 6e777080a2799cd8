"""Fixtures of the end-to-end tests: whole deployments of real processes, on loopback or in namespaces.

What the programs said is printed when a deployment ends; pytest shows it for tests that failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    """A server on loopback with its first user signed in."""
    with Deployment(tmp_path) as deployment:
        deployment.start_server()
        deployment.sign_in()
        yield deployment


@pytest.fixture
def dev(place: Deployment) -> Registered:
    """A workspace, registered; its agent is not started."""
    return place.create("dev")

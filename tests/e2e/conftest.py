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


@pytest.fixture(scope="module")
def api_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server, a user, a workspace `dev` with its agent: for the tests of a module that call the Python API."""
    with Deployment(tmp_path_factory.mktemp("api")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        deployment.start_agent(deployment.create("dev"))
        yield deployment


@pytest.fixture
def as_the_user(api_place: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls the API is signed in."""
    monkeypatch.setenv("CODER_CONFIG_DIR", str(api_place.user.folder / ".config/coderv2"))
    monkeypatch.setenv("HOME", str(api_place.user.folder))


@pytest.fixture
def dev(place: Deployment) -> Registered:
    """A workspace, registered; its agent is not started."""
    return place.create("dev")

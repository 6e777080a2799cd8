"""A running server, and two people signed in at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coder_agent_server.testing import Api, Server, another_user, first_user, run_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with run_server(tmp_path) as running:
        yield running


@pytest.fixture
async def alice(server: Server) -> AsyncIterator[Api]:
    """The first user, an owner, signed in."""
    async with first_user(server.url) as api:
        yield api


@pytest.fixture
async def bob(server: Server, alice: Api) -> AsyncIterator[Api]:
    """Somebody else, who owns nothing."""
    async with another_user(alice, server.url, "bob") as api:
        yield api

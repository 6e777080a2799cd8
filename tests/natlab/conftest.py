"""Fixtures of the kernel's NAT laboratory: one internet for all, and machines that go with each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.netns_places import Internet, Visitors

REASON = unavailable() or (None if shutil.which("nft") else "nft (nftables) is not installed")


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """The part of the network that all tests of a module share."""
    if REASON is not None:
        pytest.skip(REASON)
    with Lab() as lab:
        yield Internet(lab)


@pytest.fixture(scope="module")
def outside_host(internet: Internet) -> Host:
    """A machine on the internet with two addresses."""
    return internet.server("server", 2)


@pytest.fixture
def guests(internet: Internet) -> Iterator[Visitors]:
    """Room for this test's machines."""
    with internet.visitors() as visitors:
        yield visitors

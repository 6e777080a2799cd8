"""Fixtures of the tests that look at pages as people do. Screenshots are kept in build/screenshots/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from coder_agent.testing.chromium import open_chromium, unavailable

REASON = unavailable()
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module; every visitor has a context of its own (coder_agent/testing/chromium.py)."""
    if REASON is not None:
        pytest.skip(REASON)
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of pages go."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS

"""A headless Chromium that judges pages: the distribution's program, driven by Playwright.

    with open_chromium() as browser, visit(browser, url) as page:
        page.get_by_role("link", name="Sign in").click()
        assert accessibility_faults(page) == []

Playwright's synchronous interface keeps an event loop in this thread while a browser is open: no anyio test can run
meanwhile, so a fixture with a browser lives for a module at most, and that module's tests are plain functions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules/axe-core/axe.min.js"
"""The accessibility checker (scripts/web_modules.py)."""

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # A test's browser says nothing to anybody but the test's server.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have 64 MB there
)

Scheme = Literal["light", "dark", "no-preference"]


def program() -> str | None:
    """Where Chromium is."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def unavailable() -> str | None:
    """Why no page can be judged here, if so."""
    if program() is None:
        return "chromium is not installed (apt install chromium)"
    return None if AXE.is_file() else "axe-core was not fetched (scripts/setup, with npm)"


@contextmanager
def open_chromium(flags: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with a new profile. `flags` are added, as ``--host-resolver-rules=MAP *.apps.test 127.0.0.1``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser,
    url: str = "",
    *,
    size: tuple[int, int] = (1440, 900),
    scheme: Scheme = "light",
    token: str = "",
    scripts: bool = True,
) -> Iterator[Page]:
    """A page of a visitor without history: cold cache, no cookies but the session `token` if given.

    `url` is the server's; relative addresses are below it.
    """
    context = browser.new_context(
        base_url=url or None,
        viewport=ViewportSize(width=size[0], height=size[1]),
        color_scheme=scheme,
        java_script_enabled=scripts,
        locale="en-GB",
        timezone_id="UTC",
    )
    try:
        if token:
            context.add_cookies([{"name": "coder_session_token", "value": token, "url": url, "httpOnly": True}])
        yield context.new_page()
    finally:
        context.close()


def accessibility_faults(page: Page) -> list[str]:
    """What axe finds wrong on a page as it is now: rule, and the elements that break it."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text("utf-8"))  # not as a script of the page, whose policy forbids it
    found: dict[str, Any] = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{fault['id']}: {fault['help']}: {', '.join(str(node['target']) for node in fault['nodes'])}"
        for fault in found["violations"]
    ]

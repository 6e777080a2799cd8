"""What the dashboard costs a browser that sees it for the first time: until it can be used, and over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .place import Place, Unavailable
from .rows import Row

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .runner import Plan

WORKSPACES = 20
VISITS = 7
PAGES = ("/", "/@alice/dev0", "/network", "/account")


def dashboard(place: Place, plan: Plan) -> Iterator[Row]:
    """A server on loopback with 20 workspaces, one of them connected. Each visit has a profile of its own: nothing is
    cached. Interactive: the page's script has drawn the list and listens; ms since the navigation began. The bytes are
    those of the largest page, headers included.
    """
    from coder_agent.testing.chromium import open_chromium, unavailable
    from coder_agent.testing.deployment import Deployment

    if reason := unavailable():
        raise Unavailable(reason)
    with Deployment(Path(place.directory)) as deployment:
        deployment.start_server()
        deployment.sign_in()
        names = [deployment.create(f"dev{number}") for number in range(WORKSPACES)]
        deployment.start_agent(names[0])
        token = (deployment.user.folder / ".config" / "coderv2" / "session").read_text().strip()
        with open_chromium() as browser:
            _visit(browser, deployment.url, "/", token)  # the server reads and compresses its files once
            seen = [_visit(browser, deployment.url, "/", token) for _ in range(max(plan.runs, VISITS))]
            pages = [_visit(browser, deployment.url, path, token) for path in PAGES]
    yield Row.of("dashboard", "ms cold", [interactive for interactive, _ in seen])
    yield Row.of("dashboard", "kB", [max(size for _, size in pages) / 1e3])


def _visit(browser: Browser, url: str, path: str, token: str) -> tuple[float, float]:
    """One cold visit: ms until interactive, and bytes received."""
    from coder_agent.testing.chromium import visit

    with visit(browser, url, token=token) as page:
        wire = page.context.new_cdp_session(page)
        wire.send("Network.enable")
        sizes: list[float] = []
        wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        page.goto(path)
        page.wait_for_selector("html[data-ready]", state="attached")
        page.wait_for_load_state("networkidle")
        return float(page.evaluate("performance.getEntriesByName('interactive')[0].startTime")), sum(sizes)

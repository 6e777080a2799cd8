"""How long a key takes in the web terminal, from the key to its echo: browser, server, tunnel, shell, and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .place import Place, Unavailable
from .rows import Row

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .runner import Plan

KEYS = 100
"""Keys per run; what is typed is a line that never ends."""
PAUSE_MS = 60
"""Between two keys: a fast typist. Longer than any echo, so that each is alone."""

_WATCH = """
const seen = window.keystrokes = {pressed: [], sent: [], heard: [], shown: []};
const Plain = WebSocket;
window.WebSocket = class extends Plain {
  constructor(...all) {
    super(...all);
    this.addEventListener("message", ({data}) => typeof data !== "string" && seen.heard.push(performance.now()));
  }
  send(data) { seen.sent.push(performance.now()); super.send(data); }
};
addEventListener("keydown", () => seen.pressed.push(performance.now()), true);
"""
_OBSERVE = """() => {
  new MutationObserver(() => window.keystrokes.shown.push(performance.now()))
    .observe(document.querySelector(".xterm-rows"), {childList: true, subtree: true, characterData: true});
  for (const list of Object.values(window.keystrokes)) list.length = 0;
}"""


def keystroke(place: Place, plan: Plan) -> Iterator[Row]:
    """Chromium, server and agent on loopback; the server's leg is direct. "ms" is from the key until its echo is in the
    page, which xterm.js draws once per frame; "ms wire" without what the browser does: from its message to the answer.
    """
    from coder_agent.testing.chromium import open_chromium, unavailable, visit
    from coder_agent.testing.deployment import Deployment

    if reason := unavailable():
        raise Unavailable(reason)
    with Deployment(Path(place.directory)) as deployment:
        deployment.start_server()
        deployment.sign_in()
        deployment.start_agent(deployment.create("dev"), verbose=False)
        (session,) = deployment.user.folder.rglob("session")
        token = session.read_text().strip()
        with open_chromium() as browser, visit(browser, deployment.url, token=token) as page:
            page.add_init_script(_WATCH)
            page.goto("/@alice/dev/terminal?command=cat")
            page.get_by_role("button", name="Run it").click()
            _undisturb_browser()
            _wait_direct(page)
            runs = [_run(page) for _ in range(plan.runs)]
    yield Row.of("keystroke", "ms", [shown for shown, _ in runs])
    yield Row.of("keystroke", "ms wire", [wire for _, wire in runs])


def _undisturb_browser() -> None:
    """Chromium begins a session, and so an autogroup of its own, which does not inherit the runner's priority."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if "(chrom" in status.read_text() and _is_below(os.getpid(), status):
                (status.parent / "autogroup").write_text("-20")
        except OSError:
            pass  # gone, or there are no autogroups, or we may not: then it is disturbed


def _is_below(ancestor: int, status: Path) -> bool:
    parent = int(status.read_text().rpartition(")")[2].split()[1])
    return parent == ancestor or (parent > 1 and _is_below(ancestor, Path(f"/proc/{parent}/stat")))


def _wait_direct(page: Page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#path")).to_contain_text(re.compile("direct"), timeout=30_000)
    page.locator(".xterm-helper-textarea").focus()


def _run(page: Page) -> tuple[float, float]:
    """Median ms of one run: until the echo is shown, and on the wire."""
    page.evaluate(_OBSERVE)
    for _ in range(KEYS):
        page.keyboard.press("x")
        page.wait_for_timeout(PAUSE_MS)
    seen: dict[str, Any] = page.evaluate("() => window.keystrokes")
    shown = [_next(at, seen["shown"]) for at in seen["pressed"]]
    wire = [_next(at, seen["heard"]) for at in seen["sent"]]
    if len(shown) < KEYS:
        raise RuntimeError(f"only {len(shown)} of {KEYS} keys arrived in the page")
    return median(shown), median(wire)


def _next(at: float, events: list[float]) -> float:
    return min((event - at for event in events if event >= at), default=float("inf"))

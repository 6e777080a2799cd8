"""The web terminal as people use it: type, read, reload, lose the server, come back to the same shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from coder_agent.testing.chromium import Scheme, accessibility_faults, visit
from coder_agent.testing.deployment import Deployment, Registered, kill
from coder_agent.testing.processes import Program
from coder_agent.testing.tcp_shim import TcpShim

pytestmark = [pytest.mark.slow, pytest.mark.foreign]
PATIENCE_MS = 60_000
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@dataclass
class Stage:
    """A running deployment and its user's key."""

    place: Deployment
    dev: Registered
    agent: Program
    server: Program
    token: str

    @property
    def url(self) -> str:
        return f"{self.place.url}/@alice/dev/terminal"


@pytest.fixture(scope="module")
def stage(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Deployment(tmp_path_factory.mktemp("terminal")) as place:
        server = place.start_server()
        place.sign_in()
        dev = place.create("dev")
        agent = place.start_agent(dev)
        (session,) = place.user.folder.rglob("session")
        yield Stage(place, dev, agent, server, session.read_text().strip())


@pytest.fixture
def page(chromium: Browser, stage: Stage) -> Iterator[Page]:
    with visit(chromium, stage.place.url, token=stage.token, size=(900, 600)) as page:
        page.set_default_timeout(PATIENCE_MS)
        yield page


def screen(page: Page, pattern: str) -> None:
    """Until the terminal shows it."""
    expect(page.locator(".xterm-rows")).to_contain_text(re.compile(pattern), timeout=PATIENCE_MS)


def enter(page: Page, line: str) -> None:
    page.keyboard.type(line)
    page.keyboard.press("Enter")


def open_shell(page: Page, url: str) -> None:
    """Open the page; a prompt is there when the shell answers."""
    page.goto(url)
    page.locator(".xterm-helper-textarea").wait_for()
    expect(page.locator("#path")).to_contain_text(re.compile("direct|relayed"))
    enter(page, "PS1='$ '; clear; echo rea''dy")
    screen(page, "ready")


def test_typing_and_reading_and_the_path(page: Page, stage: Stage, screenshots: Path) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    open_shell(page, stage.url)
    enter(page, "echo $((6*7)) $CODER_WORKSPACE_NAME")
    screen(page, "42 dev")
    expect(page.locator("#path")).to_contain_text("● direct")
    expect(page).to_have_title("● alice/dev.main · terminal")
    assert accessibility_faults(page) == []
    page.screenshot(path=screenshots / "terminal-900-light.png")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=screenshots / "terminal-900-dark.png")
    assert accessibility_faults(page) == []
    assert problems == []  # nothing that the content policy refused either


def test_a_new_size_of_the_window_reaches_the_shell(page: Page, stage: Stage, screenshots: Path) -> None:
    open_shell(page, stage.url)
    for width, height in ((360, 640), (1440, 900)):
        page.set_viewport_size({"width": width, "height": height})
        enter(page, "clear; stty size; tput cols")
        screen(page, r"\d+ (\d+)\s*\1")
        rows = page.locator(".xterm-rows > div").count()
        screen(page, rf"{rows} \d+")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=screenshots / f"terminal-{width}-{scheme}.png")
            assert accessibility_faults(page) == [], f"{width} px, {scheme}"


def test_a_reload_finds_the_same_shell(page: Page, stage: Stage) -> None:
    open_shell(page, stage.url)
    enter(page, "fruit=apple; echo plan''ted")
    screen(page, "planted")
    page.reload()
    screen(page, "planted")
    enter(page, "echo =$fruit=")
    screen(page, "=apple=")


def test_two_pages_show_one_shell(page: Page, chromium: Browser, stage: Stage) -> None:
    open_shell(page, stage.url)
    with visit(chromium, stage.place.url, token=stage.token) as other:
        other.goto(page.url)
        screen(other, "ready")
        enter(other, "echo from the oth''er")
        screen(page, "from the other")


def test_the_shell_survives_a_killed_and_restarted_server(page: Page, stage: Stage, screenshots: Path) -> None:
    open_shell(page, stage.url)
    enter(page, "fruit=cherry; echo plan''ted")
    screen(page, "planted")
    kill(stage.server)
    expect(page.locator("#state")).to_contain_text("Reconnecting")
    bar, rows = page.locator(".bar").bounding_box(), page.locator(".xterm-rows").bounding_box()
    assert bar is not None
    assert rows is not None
    assert bar["y"] + bar["height"] <= rows["y"]  # what it says never covers the prompt
    page.screenshot(path=screenshots / "terminal-900-reconnecting.png")
    stage.server = stage.place.start_server()
    stage.place.wait_status(stage.dev, "connected")
    expect(page.locator("#state")).to_have_text("", timeout=PATIENCE_MS)
    screen(page, "planted")
    enter(page, "echo =$fruit=")
    screen(page, "=cherry=")


def test_a_lost_network_is_survived(page: Page, stage: Stage) -> None:
    with TcpShim("127.0.0.1", stage.place.port) as shim:
        open_shell(page, f"http://127.0.0.1:{shim.port}/@alice/dev/terminal")
        enter(page, "fruit=plum; echo plan''ted")
        screen(page, "planted")
        with page.expect_websocket():
            assert shim.cut(b"GET /api/v2/workspaceagents") == 1
        expect(page.locator("#state")).to_have_text("", timeout=PATIENCE_MS)
        enter(page, "echo =$fruit=")
        screen(page, "=plum=")


def test_the_end_of_a_shell_is_shown_and_a_new_one_is_a_key_away(page: Page, stage: Stage, screenshots: Path) -> None:
    open_shell(page, stage.url)
    before = page.url
    enter(page, "exit 3")
    screen(page, "exited with status 3; press Enter for a new shell")
    expect(page.locator("#state")).to_have_text("The shell exited with status 3")
    page.screenshot(path=screenshots / "terminal-900-exited.png")
    page.keyboard.press("Enter")
    enter(page, "echo al''ive")
    screen(page, "alive")
    assert page.url != before


def test_a_link_with_a_command_asks_first(page: Page, stage: Stage) -> None:
    page.goto(f"{stage.url}?command=echo%20it%20ran%3B%20read%20x")
    expect(page.locator("#state")).to_have_text("This link wants to run: echo it ran; read x")
    page.get_by_role("button", name="Run it").click()
    screen(page, "it ran")


def test_what_is_missing_is_said_without_the_modules(page: Page, stage: Stage, screenshots: Path) -> None:
    gone = "This file comes from npm and was not fetched"
    page.route("**/modules/@xterm/xterm/lib/*", lambda route: route.fulfill(status=404, body=gone))
    page.goto(stage.url)
    expect(page.locator("#terminal")).to_contain_text(gone)
    expect(page.locator("#terminal")).to_contain_text("coder terminal alice/dev.main")
    page.screenshot(path=screenshots / "terminal-900-missing.png")


def test_strangers_see_no_terminal(chromium: Browser, stage: Stage) -> None:
    with visit(chromium, stage.place.url) as nobody:
        nobody.goto(stage.url)
        expect(nobody).to_have_url(re.compile("/login"))
    with visit(chromium, stage.place.url, token=stage.token) as page:
        answer = page.goto(f"{stage.place.url}/@alice/nothing/terminal")
        assert answer is not None
        assert answer.status == 404
        expect(page.get_by_role("heading")).to_have_text("No such workspace")


def test_an_agent_that_is_away_is_named_and_waited_for(page: Page, stage: Stage) -> None:
    open_shell(page, stage.url)
    stage.agent.stop()
    expect(page.locator("#state")).to_contain_text("Reconnecting")
    stage.agent = stage.place.start_agent(stage.dev)
    screen(page, "the shell ended with its agent: this is a new one")
    expect(page.locator("#state")).to_have_text("")
    enter(page, "echo al''ive")
    screen(page, "alive")

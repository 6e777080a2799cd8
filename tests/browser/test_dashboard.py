"""The dashboard in Chromium: every page at every width in light and dark, live, without rights, and while the server is
away. One server, one agent and one user's program serve all of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from coder_agent.testing.chromium import Scheme, accessibility_faults, visit
from coder_agent.testing.deployment import PASSWORD, Deployment, Registered, kill, until
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.foreign]

WIDTHS = {360: 780, 900: 900, 1440: 900}
"""Widths of a phone, a tablet, a desk; with heights."""
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
MAX_TRANSFER = 150_000
"""Bytes of a page over the wire, without the terminal: the dashboard's budget."""
PATIENCE = 60_000.0
"""ms for what other processes bring about."""


@dataclass
class Place:
    """The deployment, and who is signed in."""

    deployment: Deployment
    server: Program
    token: str
    dev: Registered
    bob: str
    agent: Program
    screenshots: Path
    trouble: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.deployment.url


@pytest.fixture(scope="module")
def place(chromium: Browser, tmp_path_factory: pytest.TempPathFactory, screenshots: Path) -> Iterator[Place]:
    """A server that was set up in the browser, a workspace with its agent, and a user's program that pings it."""
    with Deployment(tmp_path_factory.mktemp("dashboard")) as deployment:
        server = deployment.start_server()
        token = set_up(chromium, deployment.url, screenshots)
        signed_in = deployment.user.coder("login", deployment.url, "--token", token)
        assert signed_in.code == 0, signed_in
        dev = deployment.create("dev")
        deployment.create("staging")
        agent = deployment.start_agent(dev)
        ping = deployment.start(deployment.user, "coder", "ping", "dev", "-n", "100000")
        ping.wait_for("pong from")
        yield Place(deployment, server, token, dev, another_user(deployment.url, token, "bob"), agent, screenshots)


def set_up(chromium: Browser, url: str, screenshots: Path) -> str:
    """The first account, by the form; signing out and in again. Returns the session's token."""
    with visit(chromium, url) as page:
        page.goto("/")
        expect(page).to_have_url(re.compile("/setup$"))
        keep_pictures(page, "setup", screenshots)
        page.get_by_label("Username").fill("alice")
        page.get_by_label("E-mail").fill("alice@example.com")
        page.get_by_label("Password").fill("short")
        page.get_by_role("button", name="Create the account").click()
        expect(page.locator("#password-fault")).to_be_visible()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Create the account").click()
        expect(page.get_by_role("heading", name="No workspace yet")).to_be_visible()
        expect(page.get_by_text("coder create dev")).to_be_visible()
        keep_pictures(page, "empty", screenshots)
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(re.compile("/login$"))
        keep_pictures(page, "login", screenshots)
        page.get_by_label("E-mail").fill("alice@example.com")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="No workspace yet")).to_be_visible()
        (cookie,) = [one for one in page.context.cookies() if one["name"] == "coder_session_token"]
        assert cookie["httpOnly"]
        return cookie["value"]


def another_user(url: str, token: str, name: str) -> str:
    """Somebody else's session."""
    with httpx2.Client(base_url=url, headers={"Coder-Session-Token": token}) as api:
        body = {"email": f"{name}@example.com", "username": name, "password": PASSWORD}
        assert api.post("/api/v2/users", json=body).status_code == 201
    with httpx2.Client(base_url=url) as api:
        reply = api.post("/api/v2/users/login", json={"email": f"{name}@example.com", "password": PASSWORD})
        return str(reply.json()["session_token"])


def keep_pictures(page: Page, name: str, screenshots: Path) -> None:
    """The page as it is at each width, light and dark: kept, accessible, and no wider than the screen."""
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png", full_page=True)
            assert accessibility_faults(page) == [], f"{name} at {width} px, {scheme}"
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), f"{name} at {width} px"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.fixture
def open_page(chromium: Browser, place: Place) -> Iterator[Callable[..., Page]]:
    """Opens a page as alice, or whose `token` is given; what its console says must not be an error."""
    exits: list[Callable[[], object]] = []
    said: list[str] = []

    def opened(path: str = "/", *, token: str | None = None, live: bool = True, scripts: bool = True) -> Page:
        manager = visit(chromium, place.url, token=place.token if token is None else token, scripts=scripts)
        page = manager.__enter__()
        exits.append(lambda: manager.__exit__(None, None, None))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(PATIENCE)
        page.goto(path)
        if live:
            expect(page.locator("#feed")).to_have_text(re.compile("live"), timeout=PATIENCE)
        return page

    yield opened
    for leave in exits:
        leave()
    assert [one for one in said if "409 (Conflict)" not in one] == []  # a name that is taken is no fault of the page


# ---------------------------------------------------------------- what the pages show


def test_workspaces_say_which_can_be_reached_and_how(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page()
    row = page.get_by_role("row", name="dev")
    expect(row).to_contain_text("you: direct", timeout=PATIENCE)
    expect(row.get_by_role("img", name="direct").first).to_be_visible()
    expect(row).to_contain_text(re.compile(r"\d\.\d ms"), timeout=PATIENCE)
    expect(page.get_by_role("row", name="staging")).to_contain_text("waiting for its agent")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 of 2 reachable")
    keep_pictures(page, "workspaces", place.screenshots)


def test_the_filter_works_as_one_types_and_new_workspaces_appear(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page()
    expect(page.get_by_role("row")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("stag")
    expect(page.get_by_role("row", name="dev")).to_have_count(0)
    expect(page.get_by_role("row", name="staging")).to_be_visible()
    place.deployment.create("staging2")
    expect(page.get_by_role("row", name="staging2")).to_be_visible()
    expect(page.get_by_label("Filter workspaces")).to_be_focused()
    expect(page.get_by_label("Filter workspaces")).to_have_value("stag")
    gone = place.deployment.user.coder("delete", "staging2", "--yes")
    assert gone.code == 0, gone
    expect(page.get_by_role("row", name="staging2")).to_have_count(0)


def test_a_workspace_is_added_and_seen_as_soon_as_its_agent_runs(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page()
    page.get_by_role("button", name="Add workspace").click()
    page.get_by_label("Name").fill("dev")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Workspace 'dev' already exists.")
    page.get_by_label("Name").fill("fresh")
    expect(page.get_by_role("dialog")).to_contain_text("coder create fresh")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("waiting for its agent")
    keep_pictures(page, "added", place.screenshots)
    line = page.get_by_role("dialog").locator("code").inner_text()
    found = re.fullmatch(r"CODER_AGENT_URL=(\S+) CODER_AGENT_TOKEN=(\S+) coder-agent run", line)
    assert found is not None, line
    assert found[1] == place.url
    agent = place.deployment.start(
        place.deployment.workspace,
        "coder-agent",
        "run",
        env={"CODER_AGENT_URL": found[1], "CODER_AGENT_TOKEN": found[2]},
    )
    expect(page.get_by_role("dialog")).to_contain_text("its agent is connected")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("row", name="fresh")).to_contain_text("ready")
    kill(agent)
    expect(page.get_by_role("row", name="fresh")).to_contain_text("not reachable since")
    assert place.deployment.user.coder("delete", "fresh", "--yes").code == 0
    expect(page.get_by_role("row", name="fresh")).to_have_count(0)


def test_a_workspace_page_draws_the_path_and_shows_the_evidence(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page("/@alice/dev")
    picture = page.get_by_role("img", name=re.compile("^you to dev: direct"))
    expect(picture).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".way.used.direct")).to_have_count(1)
    expect(page.locator(".why")).to_contain_text("direct_lan", timeout=PATIENCE)
    page.get_by_text("Show the evidence").click()
    expect(page.locator(".evidence li").first).to_be_visible()
    expect(page.get_by_role("row", name="you")).to_contain_text("127.0.0.1")
    expect(page.get_by_role("region", name="Log", exact=True)).to_contain_text("alice: direct")
    expect(page.get_by_role("region", name="Ports")).not_to_contain_text("Asking", timeout=PATIENCE)
    for command in ("coder ssh dev", "coder config-ssh", "coder port-forward dev", 'connect("dev")'):
        expect(page.get_by_role("region", name="Reach it")).to_contain_text(command)
    page.evaluate("document.querySelector('details').open = true")
    keep_pictures(page, "workspace", place.screenshots)


def test_a_relayed_path_is_drawn_through_its_relay_and_says_why(open_page: Callable[..., Page], place: Place) -> None:
    relayed = place.deployment.start(
        place.deployment.user, "coder", "--disable-direct-connections", "ping", "dev", "-n", "100000"
    )
    relayed.wait_for("pong from")
    page = open_page("/@alice/dev")
    row = page.get_by_role("region", name="Connections").get_by_role("row", name="you").filter(has_text="relayed via")
    expect(row).to_contain_text("relayed via Coder Embedded Relay", timeout=PATIENCE)
    choice = page.get_by_label("Path of")
    for value in choice.locator("option").evaluate_all("options => options.map(option => option.value)"):
        choice.select_option(value)
        if page.get_by_role("img", name=re.compile("^you to dev: relayed")).count():
            break
    expect(page.get_by_role("img", name=re.compile("^you to dev: relayed via Coder Embedded Relay"))).to_be_visible()
    expect(page.locator(".way.used.relayed")).to_have_count(1)
    expect(page.locator(".why")).to_contain_text("blocked_by_rule_there", timeout=PATIENCE)
    expect(page.locator(".fixes li")).not_to_have_count(0)
    keep_pictures(page, "relayed", place.screenshots)
    kill(relayed)
    expect(row).to_have_count(0, timeout=PATIENCE)


def test_a_port_is_shared_with_everybody_and_taken_back(
    open_page: Callable[..., Page], chromium: Browser, place: Place
) -> None:
    folder = place.deployment.workspace.folder / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>site</title><h1>Hello from the workspace</h1>", "utf-8")
    site = place.deployment.start(
        place.deployment.workspace, sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(folder)
    )
    port = site.wait_for(r"port (\d+)")[1]
    page = open_page("/@alice/dev")
    level = page.get_by_label(f"Who may open port {port}")
    expect(level).to_have_value("owner", timeout=PATIENCE)
    address = f"/@alice/dev.main/ports/{port}/"
    expect(page.get_by_role("region", name="Ports").get_by_role("link", name=port)).to_have_attribute("href", address)
    assert seen_by(chromium, place, address, place.token) == "Hello from the workspace"
    assert seen_by(chromium, place, address, place.bob) != "Hello from the workspace"
    level.select_option("authenticated")
    expect(level).to_have_value("authenticated")
    until("bob sees it", lambda: seen_by(chromium, place, address, place.bob) == "Hello from the workspace" or None)
    assert seen_by(chromium, place, address, "") != "Hello from the workspace"
    level.select_option("public")
    until("nobody sees it", lambda: seen_by(chromium, place, address, "") == "Hello from the workspace" or None)
    level.select_option("owner")
    until("bob does not", lambda: seen_by(chromium, place, address, place.bob) != "Hello from the workspace" or None)
    kill(site)


def seen_by(chromium: Browser, place: Place, address: str, token: str) -> str:
    """The heading of a page, as this visitor sees it."""
    with visit(chromium, place.url, token=token) as page:
        page.goto(address)
        return page.locator("h1").first.inner_text()


def test_an_agent_that_was_never_seen_has_its_start_line(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page("/@alice/staging")
    expect(page.get_by_role("region", name="How to start its agent")).to_contain_text("coder-agent run")
    page.get_by_role("button", name="Make a new token", exact=True).click()
    line = page.get_by_text(re.compile(r"CODER_AGENT_TOKEN=[0-9a-f-]{36} coder-agent run"))
    expect(line).to_be_visible()
    keep_pictures(page, "waiting", place.screenshots)


def test_the_network_page_has_regions_the_day_and_health(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page("/network")
    row = page.get_by_role("region", name="Regions").get_by_role("row", name="Coder Embedded Relay")
    expect(row).to_contain_text(re.compile(r"\d\.\d ms"), timeout=PATIENCE)
    expect(page.get_by_role("region", name="Direct or relayed")).to_contain_text("direct_lan", timeout=PATIENCE)
    page.get_by_role("button", name="Check now").click()
    expect(page.get_by_role("region", name="Health")).to_contain_text("database ok", timeout=PATIENCE)
    expect(page.get_by_role("region", name="Health")).to_contain_text("EACS01")
    expect(page.get_by_role("region", name="Health")).to_contain_text("What to do: set --access-url")
    keep_pictures(page, "network", place.screenshots)


def test_a_token_is_made_used_and_revoked(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page("/account", live=False)
    expect(page.get_by_role("row", name="this session")).to_be_visible()
    page.get_by_label("Name").fill("ci")
    page.get_by_label("For").select_option("90")
    expect(page.get_by_text("coder tokens create --name ci --lifetime 2160h")).to_be_visible()
    page.get_by_role("button", name="Create token").click()
    token = page.locator(".made code").first.inner_text()
    expect(page.get_by_role("row", name="ci")).to_contain_text("in 90 days")
    keep_pictures(page, "account", place.screenshots)
    with httpx2.Client(base_url=place.url, headers={"Coder-Session-Token": token}) as api:
        assert api.get("/api/v2/users/me").json()["username"] == "alice"
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Revoke ci").click()
        expect(page.get_by_role("row", name="ci")).to_have_count(0)
        assert api.get("/api/v2/users/me").status_code == 401


# ---------------------------------------------------------------- who may not, and how else


def test_a_page_without_rights_looks_like_none(chromium: Browser, place: Place) -> None:
    with visit(chromium, place.url, token=place.bob) as page:
        reply = page.goto("/@alice/dev")
        assert reply is not None
        assert reply.status == 404
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()
        keep_pictures(page, "not-found", place.screenshots)
        page.get_by_role("link", name="Your workspaces").click()
        expect(page.get_by_role("heading", name="No workspace yet")).to_be_visible()
    with visit(chromium, place.url) as page:
        page.goto("/@alice/dev")
        expect(page).to_have_url(re.compile(r"/login\?next=/(@|%40)alice/dev$"))


def test_without_scripts_one_signs_in_and_sees_the_list(chromium: Browser, place: Place) -> None:
    with visit(chromium, place.url, scripts=False) as page:
        page.goto("/")
        page.get_by_label("E-mail").fill("alice@example.com")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("row", name="alice/dev")).to_contain_text("direct")
        page.get_by_role("link", name="alice/dev").click()
        expect(page.get_by_role("heading", name="alice/dev")).to_be_visible()
        page.screenshot(path=place.screenshots / "without-scripts.png")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break  # once around
        name = "document.activeElement.textContent || document.activeElement.getAttribute('aria-label')"
        reached.append(page.evaluate(name))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached[-1]
    assert {"Network", "Sign out", "Filter workspaces", "Add workspace", "dev", "staging"} <= set(reached)


def test_sign_in_share_a_port_and_type_in_a_terminal_without_a_mouse(chromium: Browser, place: Place) -> None:
    program = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    site = place.deployment.start(place.deployment.workspace, *program)
    port = site.wait_for(r"port (\d+)")[1]
    with visit(chromium, place.url) as page:
        page.set_default_timeout(PATIENCE)
        page.goto("/")
        expect(page.get_by_label("E-mail")).to_be_focused()
        page.keyboard.type("alice@example.com")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("row", name="dev")).to_be_visible()
        tab_to(page, page.get_by_role("link", name="dev", exact=True))
        page.keyboard.press("Enter")
        level = page.get_by_label(f"Who may open port {port}")
        expect(level).to_have_value("owner")
        tab_to(page, level)
        page.keyboard.press("ArrowDown")
        expect(level).to_have_value("authenticated")
        expect(page.get_by_text(f"coder port-share dev {port} --share authenticated")).to_be_visible()
        until("it is shared", lambda: shared_ports(place).get(int(port)) == "authenticated" or None)
        tab_to(page, page.get_by_role("link", name="Open a terminal"))
        page.keyboard.press("Enter")
        page.locator(".xterm-helper-textarea").wait_for()
        expect(page.locator("#path")).to_contain_text(re.compile("direct|relayed"))
        page.keyboard.type("echo $((6*7)) is the answer")
        page.keyboard.press("Enter")
        expect(page.locator(".xterm-rows")).to_contain_text("42 is the answer")
    kill(site)
    assert place.deployment.user.coder("port-share", "dev", port, "--stop").code == 0


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until it has the focus, which must be seen."""
    expect(wanted).to_be_visible()
    for _ in range(120):
        page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            assert wanted.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
            return
    raise AssertionError(f"{wanted} is not reached by Tab")


def shared_ports(place: Place) -> dict[int, str]:
    listed = place.deployment.user.coder("port-share", "dev", "--output", "json").json()
    return {one["port"]: one["share_level"] for one in listed}


def test_pages_beside_the_four_are_accessible_too(chromium: Browser, place: Place) -> None:
    with visit(chromium, place.url, token=place.token) as page:
        page.goto("/cli-auth")
        keep_pictures(page, "cli-auth", place.screenshots)
        page.get_by_role("button", name="Make a session token").click()
        expect(page.locator("output")).to_have_text(re.compile(r"\w{10}-\w{22}"))
        for name in ("why-relayed", "health"):
            page.goto(f"/help/{name}")
            keep_pictures(page, f"help-{name}", place.screenshots)
        page.goto("/@alice/dev/ports/9/")
        expect(page.get_by_role("heading")).to_have_text("The app is not running")
        keep_pictures(page, "not-listening", place.screenshots)
        page.goto("/@alice/staging/ports/8080/")
        keep_pictures(page, "app-offline", place.screenshots)


def test_visits_and_tunnels_are_in_the_connection_log(open_page: Callable[..., Page], place: Place) -> None:
    page = open_page("/@alice/dev")
    log = page.get_by_role("region", name="Connection log")
    expect(log.get_by_role("row").filter(has_text="tunnel").first).to_contain_text("alice")
    with httpx2.Client(base_url=place.url, headers={"Coder-Session-Token": place.token}) as web:
        web.get("/@alice/dev/ports/9/", headers={"User-Agent": "looking-in/1.0"})
    row = log.get_by_role("row").filter(has_text="looking-in")
    expect(row).to_contain_text("port 9", timeout=PATIENCE)  # without a reload
    expect(row).to_contain_text("open")
    expect(log).to_contain_text("coder connections dev")


def test_a_page_is_small_and_asks_nobody_else(chromium: Browser, place: Place) -> None:
    for path in ("/", "/@alice/dev", "/network", "/account"):
        with visit(chromium, place.url, token=place.token) as page:
            wire = page.context.new_cdp_session(page)
            wire.send("Network.enable")
            sizes: list[float] = []
            wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))  # noqa: B023
            hosts: set[str] = set()
            page.on("request", lambda request: hosts.add("/".join(request.url.split("/", 3)[:3])))  # noqa: B023
            page.goto(path)
            page.wait_for_selector("html[data-ready]")
            page.wait_for_load_state("networkidle")
            assert 5_000 < sum(sizes) < MAX_TRANSFER, f"{path}: {sum(sizes)} bytes"
            assert hosts == {place.url}


# ---------------------------------------------------------------- the server goes away


def test_a_page_greys_while_the_server_is_away_and_recovers(chromium: Browser, place: Place) -> None:
    with visit(chromium, place.url, token=place.token) as page:
        page.set_default_timeout(PATIENCE)
        page.goto("/")
        expect(page.get_by_role("row", name="dev")).to_contain_text("direct", timeout=PATIENCE)
        kill(place.server)
        expect(page.locator("#banner")).to_contain_text("Server not reachable since")
        expect(page.locator("#feed")).to_have_text(re.compile("not live"))
        expect(page.get_by_role("row", name="dev")).to_contain_text("direct")  # what it said last
        page.screenshot(path=place.screenshots / "server-away.png")
        place.server = place.deployment.start_server()
        expect(page.locator("#banner")).to_have_count(0, timeout=PATIENCE)
        expect(page.locator("#feed")).to_have_text(re.compile("^● live"))
        until("the agent is back", lambda: place.deployment.status("dev") == "connected" or None)
        expect(page.get_by_role("row", name="dev")).to_contain_text(re.compile("direct|ready"), timeout=PATIENCE)


def test_whoever_is_signed_out_is_led_to_the_form(chromium: Browser, place: Place) -> None:
    with httpx2.Client(base_url=place.url) as api:
        reply = api.post("/api/v2/users/login", json={"email": "bob@example.com", "password": PASSWORD})
        token = str(reply.json()["session_token"])
    with visit(chromium, place.url, token=token) as page:
        page.goto("/")
        expect(page.locator("#feed")).to_have_text(re.compile("live"), timeout=PATIENCE)
        with httpx2.Client(base_url=place.url, headers={"Coder-Session-Token": token}) as api:
            assert api.post("/api/v2/users/logout").status_code == 200
        page.context.set_offline(True)  # the connection ends; with the next one the page learns it
        page.context.set_offline(False)
        page.reload()
        expect(page).to_have_url(re.compile("/login$"), timeout=PATIENCE)

"""The web proxy of real processes, judged by curl and Chromium: corners of HTTP, and who may see what, on paths and on
app hosts. Python's own server and programs/web_app.py serve; real apps are in test_real_web_apps.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from coder_agent.testing.chromium import open_chromium, visit
from coder_agent.testing.deployment import PASSWORD, Deployment

ROOT = Path(__file__).resolve().parent.parent.parent
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium")
PROGRAMS = Path(__file__).parent / "programs"

pytestmark = [pytest.mark.foreign, pytest.mark.slow]
needs_curl = pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is missing")
needs_chromium = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="chromium is missing")


@dataclass
class Site:
    """A deployment with one workspace, and two programs in it."""

    place: Deployment
    token: str
    files: int
    app: int

    def curl(self, path: str, *flags: str, signed_in: bool = True) -> str:
        cookie = ("-b", f"coder_session_token={self.token}") if signed_in else ()
        done = self.place.user.run(
            "curl", "-sS", "--path-as-is", "--max-time", "30", *cookie, *flags, f"{self.place.url}{path}"
        )
        assert done.code == 0, str(done)
        return done.out

    @cached_property
    def bob(self) -> str:
        """Another user's session."""
        who = {"email": "bob@example.com", "password": PASSWORD}
        with httpx2.Client(base_url=f"{self.place.url}/api/v2") as api:
            mine = {"Coder-Session-Token": self.token}
            api.post("/users", json={**who, "username": "bob"}, headers=mine).raise_for_status()
            return str(api.post("/users/login", json=who).json()["session_token"])

    def address(self, port: int, method: str) -> str:
        """Of the page on a port, either way."""
        if method == "path":
            return f"{self.place.url}{self.ports(port)}/"
        return f"http://{port}--main--dev--alice.apps.localhost:{self.place.port}/"

    def ports(self, port: int) -> str:
        return f"/@alice/dev/ports/{port}"

    def api(self, method: str, path: str, body: object) -> Any:
        said = self.curl(
            f"/api/v2{path}", "-X", method, "-H", f"Coder-Session-Token: {self.token}", "-d", json.dumps(body),
            signed_in=False,
        )  # fmt: skip
        return json.loads(said)

    def trust(self, port: int) -> None:
        (workspace,) = json.loads(self.curl("/api/v2/workspaces"))["workspaces"]
        share = {"agent_name": "main", "port": port, "share_level": "owner", "trusted": True}
        self.api("POST", f"/workspaces/{workspace['id']}/port-share", share)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Deployment(tmp_path_factory.mktemp("apps")) as place:
        place.start_server("--wildcard-access-url", "*.apps.localhost")
        place.sign_in()
        dev = place.create("dev")
        place.start_agent(dev)
        (session,) = place.user.folder.rglob("session")
        (place.workspace.folder / "file name.txt").write_text("plain text")
        files = place.start(place.workspace, sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1")
        app = place.start(place.workspace, sys.executable, "-u", str(PROGRAMS / "web_app.py"))
        yield Site(
            place,
            session.read_text().strip(),
            int(files.wait_for(r"port (\d+)")[1]),
            int(app.wait_for(r"listening on (\d+)")[1]),
        )


@needs_curl
def test_files_of_a_plain_server(site: Site) -> None:
    assert site.curl(f"{site.ports(site.files)}/file%20name.txt") == "plain text"
    listing = site.curl(f"{site.ports(site.files)}/", "-i")
    assert listing.startswith("HTTP/1.1 200 OK")
    assert "sandbox" in listing
    host = f"{site.files}--main--dev--alice.apps.localhost"
    head = ("-H", f"Host: {host}", "-H", f"Coder-Session-Token: {site.token}")
    assert site.curl("/file%20name.txt", *head, signed_in=False) == "plain text"


@needs_curl
def test_curl_sees_corners_as_the_app_sent_them(site: Site) -> None:
    base = site.ports(site.app)
    for path in ("/echo/a%2Fb/..%2f", "/echo/../x", "/echo//y", "/echo?q=%00&a[]=1"):
        assert json.loads(site.curl(base + path))["target"] == path
    missing_slash = site.curl(base, "-o", os.devnull, "-w", "%{http_code} %{redirect_url}")
    assert missing_slash == f"307 {site.place.url}{base}/"
    assert site.curl(f"{base}/events", "-N").count("data: ") == 3
    assert "X-Sum: 6" in site.curl(f"{base}/trailers", "-i", "--raw")
    assert site.curl(f"{base}/x", "-o", os.devnull, "-w", "%{http_code}", signed_in=False) == "401"
    gone = site.curl(f"{site.ports(9)}/", "-H", "Accept: text/html", "-H", "Sec-Fetch-Mode: cors")
    assert "The app is not running" in gone


@needs_curl
def test_a_large_upload_arrives_whole(site: Site) -> None:
    block = os.urandom(1 << 20)
    file = site.place.user.folder / "upload"
    file.write_bytes(block * 24)
    for flags in (["-T", str(file)], ["-T", str(file), "-H", "Transfer-Encoding: chunked"]):
        said = json.loads(site.curl(f"{site.ports(site.app)}/digest", *flags))
        assert said == {"size": 24 << 20, "sha256": hashlib.sha256(block * 24).hexdigest()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with visit(browser, site.place.url, token=site.token) as page:
        yield page


@needs_chromium
@pytest.mark.parametrize("trusted", [False, True], ids=["sandboxed", "trusted"])
def test_a_page_with_absolute_paths_works_below_a_prefix(site: Site, page: Page, trusted: bool) -> None:
    escaped: list[str] = []
    page.on("response", lambda reply: escaped.append(reply.url) if reply.status >= 400 else None)
    if trusted:
        site.trust(site.app)
    page.goto(f"{site.place.url}{site.ports(site.app)}/")
    page.wait_for_function("document.body.dataset.done === 'yes'")
    seen = page.evaluate("window.seen")
    assert seen["fetch"] == "fetched"
    assert seen["socket"] == "echo: hello"
    assert seen["events"] == "1"
    assert seen["stored"] == "kept"
    assert seen["api"] == "app", "a request for our API by the app's page is the app's"
    assert page.evaluate("window.origin") == ("null" if not trusted else site.place.url)
    assert seen["module"] == "imported"
    page.evaluate("setTimeout(() => { throw new DOMException('refused', 'SecurityError') })")
    if not trusted:
        expect(page.locator("coder-sandbox-hint")).to_contain_text(
            f"coder port-share dev {site.app} --share owner --trust"
        )
        page.screenshot(path=SCREENSHOTS / "app-sandbox-hint.png")
        page.get_by_role("button", name="Close").click()
    expect(page.locator("coder-sandbox-hint")).to_have_count(0)
    assert [url for url in escaped if "favicon" not in url and "missing" not in url] == []


# ---------------------------------------------------------------- who may see what

LEVELS = ("owner", "authenticated", "public")


@needs_chromium
@pytest.mark.parametrize("method", ["path", "subdomain"])
def test_a_shared_port_shows_itself_to_whom_it_is_shared_with(site: Site, browser: Browser, method: str) -> None:
    address = site.address(site.files, method)
    for level in LEVELS:
        shared = site.place.user.coder("port-share", "dev", str(site.files), "--share", level)
        assert shared.code == 0, shared
        for who, token in (("alice", site.token), ("bob", site.bob), ("nobody", "")):
            may = who == "alice" or level == "public" or (who == "bob" and level == "authenticated")
            with visit(browser, site.place.url, token=token) as page:
                page.goto(address)
                if may:
                    expect(page.get_by_role("link", name="file name.txt")).to_be_visible()
                    if who == "bob":
                        page.get_by_role("link", name="file name.txt").click()
                        expect(page.get_by_text("plain text")).to_be_visible()
                elif who == "bob":
                    expect(page.get_by_role("heading", level=1)).to_have_text(
                        "There is no such app, or it is not shared with you"
                    )
                    page.screenshot(path=SCREENSHOTS / f"app-without-rights-{method}.png")
                else:
                    expect(page).to_have_url(re.compile(rf"^{re.escape(site.place.url)}/login\?next="))
                    page.screenshot(path=SCREENSHOTS / f"app-sign-in-{method}.png")


@needs_chromium
def test_who_signs_in_on_the_way_to_an_app_host_arrives_there(site: Site, browser: Browser) -> None:
    address = site.address(site.app, "subdomain")
    with visit(browser) as page:
        went: list[str] = []
        page.on("response", lambda reply: went.append(f"{reply.status} {urlsplit(reply.url).path}"))
        page.goto(f"{address}?kept=1")
        page.get_by_label("E-mail").fill("alice@example.com")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{address}?kept=1")  # without the key that it came with
        page.wait_for_function("document.body.dataset.done === 'yes'")
        assert page.evaluate("[origin + '/', seen.socket, seen.stored]") == [address, "echo: hello", "kept"]
        redirects = [step for step in went if "auth-redirect" in step]
        assert redirects == ["303 /api/v2/applications/auth-redirect"] * 2, "sent to sign in, and back with a key"
        page.screenshot(path=SCREENSHOTS / "app-on-its-host.png")
        here = {str(cookie["name"]): cookie for cookie in page.context.cookies(address)}
        (session,) = [cookie for name, cookie in here.items() if name.startswith("coder_subdomain_app_session_token")]
        assert session["httpOnly"]
        assert "coder_session_token" not in here, "the dashboard's own session stays at the dashboard"
        signed = str(here["coder_signed_app_token"]["value"])
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        assert claims["access_method"] == "subdomain"
        assert claims["app_slug_or_port"] == str(site.app)
        assert page.evaluate("document.cookie") == ""
        other = site.address(site.files, "subdomain")
        page.goto(other)
        expect(page.get_by_role("link", name="file name.txt")).to_be_visible()
        assert len([step for step in went if "auth-redirect" in step]) == 2, "one key opens all of her apps"

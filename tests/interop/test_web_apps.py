"""Real apps behind the web proxy of real processes: curl and Chromium judge, JupyterLab and Python's own server serve.

JupyterLab runs in a virtual environment of its own (`.ci/run` makes build/judges/jupyterlab). Streamlit, Gradio,
TensorBoard, MLflow and Vite are too heavy to install here: programs/web_app.py names URLs in the ways that they do
(module imports, fetch, WebSocket and server-sent events from the root), but it is not them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, until

ROOT = Path(__file__).resolve().parent.parent.parent
JUPYTER = ROOT / "build" / "judges" / "jupyterlab" / "bin" / "jupyter"
CHROMIUM = shutil.which("chromium")
PROGRAMS = Path(__file__).parent / "programs"

pytestmark = [pytest.mark.foreign, pytest.mark.slow]
needs_curl = pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is missing")
needs_chromium = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="chromium is missing")
needs_jupyter = pytest.mark.skipif(not JUPYTER.exists() and not os.environ.get("CI"), reason="jupyterlab is missing")


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
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    context = browser.new_context()
    context.add_cookies([{"name": "coder_session_token", "value": site.token, "url": site.place.url}])
    yield context.new_page()
    context.close()


@needs_chromium
@pytest.mark.parametrize("trusted", [False, True], ids=["sandboxed", "trusted"])
def test_a_page_with_absolute_paths_works_below_a_prefix(site: Site, page: Any, trusted: bool) -> None:
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
    if trusted:
        assert seen["module"] == "imported"
    assert [url for url in escaped if "favicon" not in url and "missing" not in url] == []


@needs_chromium
@needs_jupyter
def test_jupyterlab_unmodified_below_a_prefix(site: Site, page: Any) -> None:
    lab = site.place.start(
        site.place.workspace, str(JUPYTER), "lab", "--no-browser", "--allow-root", "--port=0",
        "--IdentityProvider.token=", env={"JUPYTER_PLATFORM_DIRS": "1"},
    )  # fmt: skip
    port = int(until("JupyterLab listens", lambda: lab.wait_for(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab"), 60)[1])
    site.trust(port)
    base = f"{site.place.url}{site.ports(port)}/"
    strays: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((base, "data:", "blob:")) else strays.append(request.url),
    )
    page.goto(base)
    page.click('.jp-LauncherCard[data-category="Notebook"]', timeout=60_000)
    page.click(".jp-Notebook .cm-content", timeout=60_000)
    page.keyboard.type("6 * 7")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".jp-OutputArea-output pre", timeout=60_000)
    assert page.inner_text(".jp-OutputArea-output pre").strip() == "42"
    assert strays == [], "no request escapes the prefix"

"""The web apps that people run, unmodified, behind the web proxy of real processes, in Chromium.

Streamlit, Gradio, TensorBoard, MLflow, JupyterLab and a page of Vite's (as its development server and as built) are
installed apart by scripts/web_judges. None is told that it lives below a prefix. Each is used, not only loaded, in the
sandbox that is the rule for ports on paths and trusted by its owner; every request of its pages is watched.
Screenshots are kept in build/screenshots/.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Request, Response, expect

from coder_agent.testing.chromium import open_chromium, program, visit
from coder_agent.testing.deployment import Deployment, Machine
from coder_agent.testing.processes import Program

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
JUDGES = ROOT / "build" / "judges"
BIN = JUDGES / "webapps" / "bin"
VITE = JUDGES / "vite" / "node_modules" / "vite" / "bin" / "vite.js"
SOURCES = Path(__file__).parent / "programs" / "web_apps"
NEEDED = {"chromium": program(), "web apps (scripts/web_judges)": (JUDGES / "vite" / "installed.json").exists()}
MISSING = [name for name, found in NEEDED.items() if not found]

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"missing: {', '.join(MISSING)}"),
]

PATIENCE = 60_000.0
"""ms for what an app does when it is asked for the first time."""
STARTING = 120.0
"""Seconds for all of them to start at once on two busy cores."""
WILDCARD = "*.apps.test"
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "JUPYTER_PLATFORM_DIRS": "1",
    "NO_COLOR": "1",
}


@dataclass(frozen=True)
class App:
    """A program as its manual says to start it, and what it says when it listens."""

    command: tuple[str, ...]
    listening: str
    silent: tuple[str, ...] = ()
    """Ends of the paths for which the app itself has nothing (it answers 404 at its root, too)."""


APPS = {
    "streamlit": App(
        (str(BIN / "streamlit"), "run", str(SOURCES / "streamlit_page.py"), "--server.headless=true",
         "--server.port=0", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false"),
        r"URL: http://127\.0\.0\.1:(\d+)",
    ),
    "gradio": App((str(BIN / "python"), str(SOURCES / "gradio_page.py")), r"local URL:\s+http://127\.0\.0\.1:(\d+)"),
    "tensorboard": App(
        (str(BIN / "tensorboard"), "--logdir=logs", "--port=0", "--host=127.0.0.1"),
        r"TensorBoard \S+ at http://127\.0\.0\.1:(\d+)/",
    ),
    "mlflow": App(
        (str(BIN / "mlflow"), "server", "--backend-store-uri=sqlite:///runs.db", "--host=127.0.0.1", "--port=0",
         "--workers=1"),
        r"Uvicorn running on http://127\.0\.0\.1:(\d+)",
        ("/mlflow/users/current",),
    ),
    "jupyterlab": App(
        (str(JUDGES / "jupyterlab" / "bin" / "jupyter"), "lab", "--no-browser", "--allow-root", "--port=0",
         "--IdentityProvider.token="),
        r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab",
    ),
    "vite": App(("node", str(VITE), "--host=127.0.0.1"), r"http://127\.0\.0\.1:(\d+)/"),
    "vite_built": App(("node", str(VITE), "preview", "--host=127.0.0.1"), r"http://127\.0\.0\.1:(\d+)/"),
}  # fmt: skip
BOTH = pytest.mark.parametrize("trusted", [False, True], ids=["sandboxed", "trusted"])


@dataclass
class Site:
    """A deployment with one workspace, in which every app runs."""

    place: Deployment
    browser: Browser
    token: str
    programs: dict[str, Program] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def vite(self) -> Path:
        return self.place.workspace.folder / "vite"

    def port(self, name: str) -> int:
        if name not in self.ports:
            self.ports[name] = int(self.programs[name].wait_for(APPS[name].listening, STARTING)[1])
        return self.ports[name]

    def host(self, name: str) -> str:
        return f"http://{self.port(name)}--main--dev--alice{WILDCARD[1:]}:{self.place.port}"

    def trust(self, port: int, trusted: bool) -> None:
        with httpx2.Client(base_url=f"{self.place.url}/api/v2", headers={"Coder-Session-Token": self.token}) as api:
            (workspace,) = api.get("/workspaces").json()["workspaces"]
            share = {"agent_name": "main", "port": port, "share_level": "owner", "protocol": "http", "trusted": trusted}
            api.post(f"/workspaces/{workspace['id']}/port-share", json=share).raise_for_status()

    @contextmanager
    def open(self, name: str, *, trusted: bool = False, subdomain: bool = False) -> Iterator[Watched]:
        """The app's page as alice sees it. At the end: no request went astray."""
        port = self.port(name)
        base = self.host(name) if subdomain else f"{self.place.url}/@alice/dev.main/ports/{port}"
        self.trust(port, trusted)
        with visit(self.browser, self.place.url, token=self.token) as page:
            page.set_default_timeout(PATIENCE)
            expect.set_options(timeout=PATIENCE)
            watched = Watched(page, base, APPS[name].silent)
            try:
                yield watched
            finally:
                kind = "subdomain" if subdomain else "trusted" if trusted else "sandboxed"
                page.screenshot(path=SCREENSHOTS / f"app-{name}-{kind}.png")
            assert page.evaluate("origin") == (origin_of(base) if trusted or subdomain else "null")
            assert watched.trouble == []


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Watched:
    """A page, and what it asks for. `trouble`: requests of our host outside of `base` that were not led back into it by
    the fall-back, and those that were not answered well."""

    def __init__(self, page: Page, base: str, silent: tuple[str, ...]) -> None:
        self.page = page
        self.base = base
        self.trouble: list[str] = []
        self.sign_in: list[str] = []
        self.led_back: list[str] = []
        self.sockets: list[str] = []
        self._silent = silent
        page.on("response", self._answered)
        page.on("requestfailed", self._failed)
        page.on("websocket", lambda socket: self._socket(socket.url))
        page.on("pageerror", lambda error: self.trouble.append(f"exception: {error}"))

    def goto(self, path: str = "/") -> Page:
        self.page.goto(self.base + path)
        return self.page

    def _inside(self, url: str) -> bool:
        return url.startswith((f"{self.base}/", "data:", "blob:"))

    def _answered(self, reply: Response) -> None:
        if not self._inside(reply.url):
            if origin_of(reply.url) != origin_of(self.base):
                self.sign_in.append(urlsplit(reply.url).path)
            elif reply.status == 307 and self._inside(origin_of(self.base) + reply.headers.get("location", "")):
                self.led_back.append(reply.url)
            else:
                self.trouble.append(f"escaped: {reply.url} ({reply.status})")
        elif reply.status >= 400 and not reply.url.partition("?")[0].endswith(self._silent or "\0"):
            self.trouble.append(f"{reply.status}: {reply.url}")

    def _failed(self, request: Request) -> None:
        if not self._inside(request.url) and origin_of(request.url) == origin_of(self.base):
            self.trouble.append(f"escaped: {request.url} ({request.failure})")

    def _socket(self, url: str) -> None:
        self.sockets.append(url)
        if not self._inside(f"http{url.removeprefix('ws')}"):
            self.trouble.append(f"escaped: {url}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Deployment(tmp_path_factory.mktemp("apps")) as place, chromium() as browser:
        work = place.workspace
        shutil.copytree(SOURCES / "vite", work.folder / "vite", ignore=shutil.ignore_patterns("package*.json"))
        assert work.run(str(BIN / "python"), str(SOURCES / "tensorboard_run.py"), "logs/first-run").code == 0
        slow = {name: start(place, name) for name in ("mlflow", "gradio", "streamlit", "jupyterlab", "tensorboard")}
        place.start_server("--wildcard-access-url", WILDCARD)
        place.sign_in()
        place.start_agent(place.create("dev"))
        (session,) = place.user.folder.rglob("session")
        built = Machine(work.folder / "vite").run("node", str(VITE), "build", timeout=STARTING)
        assert built.code == 0, built
        vites = {name: start(place, name, "vite") for name in ("vite", "vite_built")}
        yield Site(place, browser, session.read_text().strip(), slow | vites)


def start(place: Deployment, name: str, folder: str = "") -> Program:
    return place.start(Machine(place.workspace.folder / folder), *APPS[name].command, env=QUIET)


def chromium() -> AbstractContextManager[Browser]:
    # App hosts are mapped to loopback, and nothing else has an address: apps call for fonts and news.
    return open_chromium([f"--host-resolver-rules=MAP {WILDCARD} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])


# ---------------------------------------------------------------- the apps


def use_streamlit(seen: Watched) -> None:
    page = seen.goto()
    page.get_by_role("button", name="Count").click()
    expect(page.get_by_text("counted 1")).to_be_visible()
    page.set_input_files("input[type=file]", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"twelve bytes"})
    expect(page.get_by_text("received 12 bytes")).to_be_visible()
    assert any("/_stcore/stream" in url for url in seen.sockets)


def use_gradio(seen: Watched) -> None:
    page = seen.goto()
    page.get_by_label("Name").fill("Ada")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_label("Greeting")).to_have_value("Hello Ada")


@BOTH
def test_streamlit(site: Site, trusted: bool) -> None:
    with site.open("streamlit", trusted=trusted) as seen:
        use_streamlit(seen)


@BOTH
def test_gradio(site: Site, trusted: bool) -> None:
    with site.open("gradio", trusted=trusted) as seen:
        use_gradio(seen)


@BOTH
def test_tensorboard_shows_a_run(site: Site, trusted: bool) -> None:
    with site.open("tensorboard", trusted=trusted) as seen:
        page = seen.goto("/#scalars")
        expect(page.get_by_text("first-run").first).to_be_visible()
        expect(page.get_by_role("button", name="loss")).to_be_visible()
        expect(page.locator("tf-line-chart-data-loader").first).to_be_visible()


@BOTH
def test_mlflow_lists_a_run(site: Site, trusted: bool) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{site.port('mlflow')}/api/2.0/mlflow", timeout=60) as api:
        known = api.get("/experiments/get-by-name", params={"experiment_name": "judged"})
        if known.status_code == 404:
            number = api.post("/experiments/create", json={"name": "judged"}).json()["experiment_id"]
            api.post("/runs/create", json={"experiment_id": number, "run_name": "first-run"}).raise_for_status()
        else:
            number = known.json()["experiment"]["experiment_id"]
    with site.open("mlflow", trusted=trusted) as seen:
        page = seen.goto("/#/experiments")
        expect(page.get_by_role("link", name="judged")).to_be_visible()
        page.goto(f"{page.url.partition('#')[0]}#/experiments/{number}/runs")
        expect(page.get_by_text("first-run").first).to_be_visible()


@BOTH
def test_jupyterlab_computes(site: Site, trusted: bool) -> None:
    with site.open("jupyterlab", trusted=trusted) as seen:
        page = seen.goto("/lab?reset")
        page.click('.jp-LauncherCard[data-category="Notebook"]')
        # The kernel has said which language it speaks, and does nothing: before that the editor is made anew.
        cell = page.locator(".jp-Notebook .cm-content[data-language=python]").first
        expect(cell).to_be_visible()
        expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible()
        cell.press_sequentially("6 * 7")
        expect(cell).to_have_text("6 * 7")
        cell.press("Shift+Enter")
        expect(page.locator(".jp-OutputArea-output pre")).to_have_text("42")
        assert any("/channels" in url for url in seen.sockets)


@BOTH
def test_vite_changes_a_page_while_one_looks(site: Site, trusted: bool) -> None:
    words = site.vite / "src" / "words.js"
    with site.open("vite", trusted=trusted) as seen:
        words.write_text('export const words = "first words";\n')
        page = seen.goto()
        expect(page.locator("#words")).to_have_text("first words")
        expect(page.locator("#data")).to_have_text("data arrived")
        expect(page.locator("body")).to_have_css("color", "rgb(1, 2, 3)")
        page.evaluate("window.untouched = true")
        assert len(seen.sockets) == 1
        words.write_text(f'export const words = "other words, {trusted}";\n')
        expect(page.locator("#words")).to_have_text(f"other words, {trusted}")
        assert page.evaluate("window.untouched"), "it was not loaded again"


@BOTH
def test_a_built_page_finds_its_files_and_routes(site: Site, trusted: bool) -> None:
    with site.open("vite_built", trusted=trusted) as seen:
        page = seen.goto()
        expect(page.locator("#app")).to_contain_text("This is home")
        expect(page.locator("#data")).to_have_text("data arrived")
        assert page.locator("#app img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
        page.get_by_role("link", name="About").click()
        expect(page.locator("#app")).to_contain_text("This is about" if trusted else "This is")
        if trusted:  # Chromium lets no sandboxed page change its path
            assert page.url == f"{seen.base}/about"
            page.reload()
            expect(page.locator("#app")).to_contain_text("This is about")
            assert any("texture.svg" in url for url in seen.led_back), "a style sheet's path was found by its Referer"


# ---------------------------------------------------------------- hosts of their own


@pytest.mark.parametrize(
    ("name", "use"),
    [("streamlit", use_streamlit), ("gradio", use_gradio)],
    ids=["streamlit", "gradio"],
)
def test_on_a_host_of_its_own(site: Site, name: str, use: Callable[[Watched], None]) -> None:
    with site.open(name, subdomain=True) as seen:
        use(seen)
        assert seen.sign_in == ["/api/v2/applications/auth-redirect"], "signed in already, alice is only recognised"

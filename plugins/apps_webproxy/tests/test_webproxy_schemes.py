"""A stranger's scheme of app URLs: the example of docs/plugins.md, as it stands there, in a whole server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from coder_agent_apps_webproxy import plugin as webproxy
from coder_agent_apps_webproxy.html import HtmlBelow, Preamble
from coder_agent_server.context import RoutesContext
from coder_agent_server.testing import first_user, run_server

pytestmark = pytest.mark.anyio
DOCS = Path(__file__).resolve().parents[3] / "docs" / "plugins.md"


def example() -> ModuleType:
    """The plugin of the section, as a module."""
    section = DOCS.read_text("utf-8").partition("### coder_app_proxies")[2].partition("\n### ")[0]
    module = ModuleType("hello_apps")
    exec(section.partition("```python\n")[2].partition("```")[0], module.__dict__)
    return module


async def test_an_app_of_a_plugins_scheme_is_declared_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RoutesContext.place  # no agent is connected here, and this app needs none
    monkeypatch.setattr(RoutesContext, "place", lambda *given: replace(place(*given), status="connected"))
    plugins = ("apps_webproxy", webproxy), ("hello", example())
    async with run_server(tmp_path, *plugins) as server, first_user(server.url) as alice:
        apps = [{"slug": "hi", "url": "hello://you/"}]
        made = await alice.post("/api/v2/users/me/workspaces", json={"name": "dev", "apps": apps})
        assert made.status_code == 201, made.text
        for _ in range(2):
            reply = await alice.get("/@alice/dev/apps/hi/")
            assert (reply.status_code, reply.text) == (200, "hello, you")
        apps[0]["url"] = "gopher://you/"
        refused = await alice.post("/api/v2/users/me/workspaces", json={"name": "other", "apps": apps})
        assert refused.status_code == 400
        assert "hello" in refused.json()["validations"][0]["detail"]
        assert (await alice.get("/api/v2/users/me")).status_code == 200, "the connection goes back to the server"


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_pages_are_rewritten_however_they_arrive(step: int) -> None:
    page = (
        b'<!DOCTYPE html><html><head><meta charset="utf-8"><script src="/a.js?x=\'>"></script>'
        b'<link href=\'/b.css\'></head><body><a href="//cdn.example/x">1</a><a href="rel">2</a>'
        b'<img src=/c.png data-src="/d.png"><form action="/@a/b/ports/80/e"></form>'
        b' 1 < 2 and href="/text"</body></html>'
    )
    rewriter = HtmlBelow(Preamble("/@a/b/ports/80/", sandboxed=False))
    out = b"".join(rewriter.feed(page[at : at + step]) for at in range(0, len(page), step)) + rewriter.end()
    before, preamble, after = out.partition(rewriter.preamble.elements())
    assert before == b"<!DOCTYPE html><html><head>"
    assert preamble.startswith(b'<script type="importmap">{"imports": {"/": "/@a/b/ports/80/",')
    assert after == (
        b'<meta charset="utf-8"><script src="/@a/b/ports/80/a.js?x=\'>"></script>'
        b'<link href=\'/@a/b/ports/80/b.css\'></head><body><a href="//cdn.example/x">1</a><a href="rel">2</a>'
        b'<img src=/@a/b/ports/80/c.png data-src="/d.png"><form action="/@a/b/ports/80/e"></form>'
        b' 1 < 2 and href="/text"</body></html>'
    )

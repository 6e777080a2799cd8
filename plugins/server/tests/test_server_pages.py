"""The pages for people: readable without scripts, nothing from elsewhere, safe against forms of other sites."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from coder_agent_server.testing import PASSWORD, Api, Server, first_user, run_server
from prometheus_client.parser import text_string_to_metric_families

from coder_agent.hooks.health import REMEDIES
from coder_agent.verdict.causes import Cause

pytestmark = pytest.mark.anyio


async def test_whoever_comes_first_is_led_to_the_set_up(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url, follow_redirects=True) as browser:
        page = await browser.get("/")
        assert page.url.path == "/setup"
        assert "Whoever makes the first account owns the deployment." in page.text
        assert f"coder login {server.url}" in page.text
        form = {"username": "alice", "email": "alice@example.org", "password": "short"}
        page = await browser.post("/setup", data=form)
        assert page.status_code == 400
        assert 'aria-describedby="password-fault"' in page.text
        assert 'value="alice@example.org"' in page.text
        page = await browser.post("/setup", data={**form, "password": PASSWORD})
        assert page.url.path == "/"
        assert "No workspace yet" in page.text
        assert (await browser.get("/setup")).url.path == "/"
        page = await browser.post("/setup", data={**form, "password": PASSWORD})
        assert (page.status_code, "already been created" in page.text) == (403, True)
        page = await browser.post("/logout")
        assert page.url.path == "/login"
        assert (await browser.get("/")).url.path == "/login"


async def test_pages_load_nothing_from_elsewhere_and_no_inline_script(alice: Api) -> None:
    await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})
    for path in ("/", "/@alice/dev", "/@me/dev", "/network", "/account", "/cli-auth"):
        page = await alice.get(path)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*(src=\"/static/|type=\"application/json\"))", page.text)
        for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert address.startswith(("/", "#"))
            assert not address.startswith("//")


async def test_a_page_is_readable_without_scripts(alice: Api) -> None:
    await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})
    page = await alice.get("/")
    assert '○ waiting for its agent<td><a href="/@alice/dev">alice/dev</a>' in page.text


async def test_another_users_workspace_looks_like_none(alice: Api, bob: Api) -> None:
    await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})
    forbidden, unknown = await bob.get("/@alice/dev"), await bob.get("/@alice/nothing")
    assert (forbidden.status_code, unknown.status_code) == (404, 404)
    assert forbidden.text == unknown.text
    assert "Not found" in forbidden.text
    assert (await alice.get("/@alice/dev")).status_code == 200


async def test_names_do_not_end_the_data_block(tmp_path: Path) -> None:
    async with run_server(tmp_path, name="</script><b>us") as server, first_user(server.url) as alice:
        page = await alice.get("/")
    assert "<b>us" not in page.text
    assert page.text.count("</script>") == 2


async def test_static_files_are_compressed_and_cached(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        page = await browser.get("/setup")
        found = re.search(r'href="(/static/v-[0-9a-f]+/)style\.css"', page.text)
        assert found is not None
        style = await browser.get(found[1] + "style.css")
        assert style.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert style.headers["content-encoding"] == "gzip"
        plain = await browser.get("/static/style.css", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert (plain.text, plain.headers["cache-control"]) == (style.text, "no-cache")
        again = await browser.get("/static/style.css", headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        old = await browser.get("/static/v-000000000000/style.css")
        assert (old.status_code, old.headers["cache-control"]) == (200, "no-cache")
        assert (await browser.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    ["/static/../shell.py", "/static/%2e%2e/shell.py", "/static/..%2fshell.py", "/static/no.js", "/static/"],
)
async def test_only_static_files_are_served(server: Server, path: str) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        reply = await browser.get(path)
    assert reply.status_code == 404
    assert "import" not in reply.text


async def test_a_module_that_was_not_fetched_says_how_it_is(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        reply = await browser.get("/static/modules/nobody/nothing.mjs")
    assert reply.status_code == 404
    assert "scripts/setup" in reply.text


async def test_signing_in_and_making_a_token_as_coder_login_wants(server: Server, alice: Api) -> None:
    async with httpx2.AsyncClient(base_url=server.url, follow_redirects=True) as browser:
        page = await browser.get("/cli-auth")
        assert (page.url.path, page.url.params["next"]) == ("/login", "/cli-auth")
        form = {"email": "alice@example.org", "password": PASSWORD, "next": "/cli-auth"}
        page = await browser.post("/login", data=form)
        assert page.url.path == "/cli-auth"
        page = await browser.post("/cli-auth")
        found = re.search(r"<output>([^<]+)</output>", page.text)
        assert found is not None
        assert page.headers["cache-control"] == "no-store"
    async with Api(server.url, found[1]) as api:
        assert (await api.get("/api/v2/users/me")).json()["username"] == "alice"


async def test_signing_in_on_the_way_to_an_app_is_no_redirect_of_a_form(server: Server, alice: Api) -> None:
    """`form-action` holds for redirects, too, and the app may be on another host."""
    ways = ["/api/v2/applications/auth-redirect?redirect_uri=http%3A%2F%2Fa&state=x", '/@alice/dev/apps/a/?q="<']
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        for way in ways:
            form = {"email": "alice@example.org", "password": PASSWORD, "next": way}
            page = await browser.post("/login", data=form)
            assert page.status_code == 200
            assert page.headers["refresh"] == "0; url=" + way.replace('"', "%22").replace("<", "%3C")
            assert "coder_session_token" in page.cookies
            assert '<"' not in page.text


async def test_a_wrong_password_keeps_the_address_and_escapes_it(server: Server, alice: Api) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        page = await browser.post("/login", data={"email": '"><script>x', "password": "wrong"})
    assert page.status_code == 401
    assert "Incorrect email or password." in page.text
    assert "<script>" not in page.text
    assert "set-cookie" not in page.headers


async def test_a_link_alone_makes_no_token(server: Server, alice: Api) -> None:
    before = len((await alice.get("/api/v2/users/me/keys/tokens")).json())
    page = await alice.get("/cli-auth")
    assert "<output>" not in page.text
    assert len((await alice.get("/api/v2/users/me/keys/tokens")).json()) == before


async def test_the_name_is_shown_escaped(tmp_path: Path) -> None:
    async with run_server(tmp_path, name="<b>us</b>") as server, Api(server.url) as api:
        page = await api.get("/setup")
    assert "<b>us" not in page.text
    assert "&lt;b&gt;us" in page.text


async def test_the_latency_check_allows_browsers_of_other_sites(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        reply = await browser.options("/latency-check")
        assert reply.status_code == 204
        assert "X-LATENCY-CHECK" in reply.headers["access-control-allow-headers"]
        reply = await browser.get("/latency-check")
        assert reply.headers["timing-allow-origin"] == "*"


async def test_metrics_have_an_address_of_their_own(tmp_path: Path) -> None:
    settings = {"prometheus_enable": True, "prometheus_address": "127.0.0.1:0"}
    async with run_server(tmp_path, **settings) as server, httpx2.AsyncClient() as client:
        assert (await client.get(f"{server.url}/metrics")).status_code == 404
        text = (await client.get(f"http://{server.running.metrics}/metrics")).text
        assert "coder_server_agents_connected 0.0" in text
        assert 'coder_server_build_info{version="v0.0.0-' in text
        assert "coder_relay_clients 0.0" in text
        assert 'coder_server_paths{kind="direct"} 0.0' in text
        found = {family.name: family for family in text_string_to_metric_families(text)}
        buckets = [one for one in found["coder_server_request_duration_seconds"].samples if "le" in one.labels]
        counts = [one.value for one in buckets]
        assert counts == sorted(counts)
        assert (buckets[-1].labels["le"], counts[-1]) == ("+Inf", 1)  # the 404 above
        assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= found.keys()


async def test_errors_are_pages_for_people_and_documents_for_programs(server: Server, alice: Api) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}
    page = await alice.get("/nowhere/<b>", headers=browser)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "Route not found." in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (await alice.get("/nowhere")).json() == {"message": "Route not found."}
    assert (await alice.get("/api/v2/nowhere", headers=browser)).json() == {"message": "Route not found."}
    page = await alice.get("/logout", headers=browser)
    assert (page.status_code, page.headers["allow"]) == (405, "POST")
    cookie = {"Cookie": f"coder_session_token={alice.token}", "Origin": "https://elsewhere.example"}
    page = await alice.post("/cli-auth", headers={**browser, **cookie})
    assert (page.status_code, "This request comes from another site." in page.text) == (403, True)


async def test_codes_lead_to_what_they_mean(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        why = (await browser.get("/help/why-relayed")).text
        health = (await browser.get("/help/health")).text
        unknown = await browser.get("/help/shell")
    causes = [cause.value for cause in Cause if not cause.is_direct]
    assert [cause for cause in causes if f'<h3 id="{cause}">' not in why] == []
    checked_here = [code for code in REMEDIES if not code.startswith("EIF")]  # interfaces are netcheck's
    assert [code for code in checked_here if f'<tr id="{code}">' not in health] == []
    assert re.findall(r'href="[^"]*\.md', why + health) == []  # only what is served
    assert unknown.status_code == 404

"""The pages for people: no scripts, nothing from elsewhere, safe against forms of other sites."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from coder_agent_server.testing import PASSWORD, Api, Server, first_user, run_server

pytestmark = pytest.mark.anyio


async def test_the_status_page_says_what_to_do_next(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        page = await browser.get("/")
        assert "no users yet" in page.text
        assert f"coder login {server.url}" in page.text
        assert "<script" not in page.text
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        async with first_user(server.url) as alice:
            assert 'href="/login"' in (await browser.get("/")).text
            assert "Signed in as alice" in (await alice.get("/")).text


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


async def test_a_wrong_password_keeps_the_address_and_escapes_it(server: Server, alice: Api) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        page = await browser.post("/login", data={"email": '"><script>x', "password": "wrong"})
    assert page.status_code == 401
    assert "Incorrect email or password." in page.text
    assert "<script" not in page.text
    assert "set-cookie" not in page.headers


async def test_a_link_alone_makes_no_token(server: Server, alice: Api) -> None:
    before = len((await alice.get("/api/v2/users/me/keys/tokens")).json())
    page = await alice.get("/cli-auth")
    assert "<output>" not in page.text
    assert len((await alice.get("/api/v2/users/me/keys/tokens")).json()) == before


async def test_the_name_is_shown_escaped(tmp_path: Path) -> None:
    async with run_server(tmp_path, name="<b>us</b>") as server, Api(server.url) as api:
        page = await api.get("/")
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

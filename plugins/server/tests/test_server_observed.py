"""What an operator sees: figures, debug pages, JSON log lines with request ids, audit events."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from coder_agent_server.context import RoutesContext
from coder_agent_server.front import Tally
from coder_agent_server.json_log import JsonFormatter
from coder_agent_server.request_ids import RequestIdFilter, current, new_request_id
from coder_agent_server.testing import Api, Server, first_user, run_server
from starlette.requests import Request

from coder_agent.hooks import hookimpl
from coder_agent.hooks.events import Audited, Event
from coder_agent.hooks.web_apps import TakenConnection

pytestmark = pytest.mark.anyio


class Observer:
    """A plugin that listens."""

    def __init__(self) -> None:
        self.heard: list[Audited] = []

    @hookimpl
    def coder_event(self, event: Event) -> None:
        if isinstance(event, Audited):
            self.heard.append(event)


async def test_changes_are_told_to_observers_without_secrets(tmp_path: Path) -> None:
    observer = Observer()
    async with run_server(tmp_path, ("observer", observer)) as server, first_user(server.url) as alice:
        made = (await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})).json()
        app = {"slug": "web", "url": "http://localhost:8080"}
        agent = made["agent_tokens"][0]["agent_id"]
        reply = await alice.post(f"/api/v2/workspaceagents/{agent}/apps", json=app)
        token = (await alice.post("/api/v2/users/me/keys/tokens", json={"token_name": "ci"})).json()["key"]
        await alice.delete(f"/api/v2/users/me/keys/{token[:10]}")
        await alice.delete(f"/api/v2/workspaces/{made['id']}")
        wrong = {"email": "alice@example.org", "password": "hunter2-hunter2"}
        await alice.post("/api/v2/users/login", json=wrong)
    told = [(event.action, event.resource, event.status) for event in observer.heard]
    assert told == [
        ("create", "user", 201),
        ("login", "user", 201),
        ("create", "workspace", 201),
        ("create", "workspace_app", 201),
        ("create", "api_key", 201),
        ("delete", "api_key", 204),
        ("delete", "workspace", 204),
        ("login", "user", 401),
    ]
    assert observer.heard[3].request_id == reply.headers["X-Coder-Request-Id"]
    assert observer.heard[3].ip == "127.0.0.1"
    assert observer.heard[-1].user == ""
    secrets = (token[11:], made["agent_token"], "hunter2", alice.token[11:])
    assert not any(secret in repr(observer.heard) for secret in secrets)


async def test_a_broken_observer_hinders_nobody(tmp_path: Path) -> None:
    class Broken:
        @hookimpl
        def coder_event(self, event: Event) -> None:
            raise RuntimeError("on purpose")

    async with run_server(tmp_path, ("broken", Broken())) as server, first_user(server.url) as alice:
        assert (await alice.get("/api/v2/users/me")).status_code == 200


async def test_debug_pages_are_for_owners(server: Server, alice: Api, bob: Api) -> None:
    for page in ("coordinator", "tailnet"):
        html = await alice.get(f"/api/v2/debug/{page}")
        assert html.status_code == 200
        assert "<script" not in html.text
        assert "default-src 'none'" in html.headers["Content-Security-Policy"]
        rows = await alice.get(f"/api/v2/debug/{page}", headers={"Accept": "application/json"})
        assert rows.json() == {"rows": []}
        assert (await bob.get(f"/api/v2/debug/{page}")).status_code == 404


async def test_requests_are_counted_by_kind(tmp_path: Path) -> None:
    options = {"prometheus_enable": True, "prometheus_address": "127.0.0.1:0"}
    async with run_server(tmp_path, **options) as server, first_user(server.url) as alice:
        assert (await alice.get("/api/v2/users/nobody")).status_code == 404
        async with Api(f"http://{server.running.metrics}") as scraper:
            text = (await scraper.get("/metrics")).text
    assert re.search(r'coder_server_requests_total\{method="GET",status="4xx"\} 1\.0', text)
    assert re.search(r'coder_server_requests_total\{method="POST",status="2xx"\} 2\.0', text)
    assert "coder_server_requests_in_progress 0.0" in text


def test_strange_methods_do_not_make_series() -> None:
    tally = Tally()
    for _ in range(100):
        tally.count(uuid4().hex, 405, 0.1)
    assert tally.requests == {("other", "4xx"): 100}


def test_json_lines_have_the_request_and_no_secret() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RequestIdFilter())
    logger = logging.getLogger("test_server_observed")
    logger.propagate = False
    logger.addHandler(handler)
    mark = current.set("abcdef0123456789")
    try:
        logger.warning(
            "CODER_SESSION_TOKEN=%s", "abcdefghij-klmnopqrstuvwxyz012345", extra={"status": 404, "path": "/x"}
        )
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("it failed")
    finally:
        current.reset(mark)
        logger.removeHandler(handler)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["request_id"], first["status"]) == ("warning", "abcdef0123456789", 404)
    assert "klmnopqrstuvwxyz012345" not in first["msg"]
    assert "ValueError: broken" in second["error"]


@pytest.mark.parametrize("offered", ["", "short", "x" * 65, "line\nbreak-line", "nøt-ascii-here"])
def test_only_a_harmless_request_id_is_taken_over(offered: str) -> None:
    assert new_request_id(offered) != offered
    assert len(new_request_id(offered)) == 16


async def test_a_visitor_behind_a_proxy_is_named_even_outside_of_the_application(tmp_path: Path) -> None:
    options = {"proxy_trusted_headers": ["X-Forwarded-For"], "proxy_trusted_origins": ["127.0.0.1/32"]}
    async with run_server(tmp_path, **options) as server:
        context = RoutesContext(server.running.deployment)
        headers = [(b"x-forwarded-for", b"203.0.113.9")]
        scope = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 1), "headers": headers}
        assert context.client_address(Request(scope)) == "203.0.113.9"
        assert scope["headers"] == headers


class Hello:
    """A plugin that answers on the connection itself."""

    name = "hello"

    @hookimpl
    def coder_server_routes(self, context: object) -> list[object]:
        return [self]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    def claims(self, head: bytes) -> bool:
        return head.startswith(b"GET /hello")

    def accept(self, connection: TakenConnection) -> None:
        mark = connection.begin(b"GET", connection.initial.split(b" ")[1], parsed(connection.initial))
        logging.getLogger("coder_agent.test").info("saying hello")
        assert isinstance(connection.transport, asyncio.Transport)
        connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + mark.lines + b"\r\nhello")
        mark.end(200)
        connection.give_back(b"")


def parsed(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}


async def test_requests_answered_on_the_connection_are_marked_like_all_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "coder_agent")
    caplog.handler.addFilter(RequestIdFilter())
    trust = {"proxy_trusted_origins": ["127.0.0.0/8"], "proxy_trusted_headers": ["X-Forwarded-For"]}
    hello = ("hello", Hello())
    async with run_server(tmp_path, hello, strict_transport_security=60, **trust) as server, Api(server.url) as api:
        plain = await api.get("/hello?secret=1")
        again = await api.get("/hello")
        behind = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9", "X-Request-Id": "from-the-proxy"}
        proxied = await api.get("/hello", headers=behind)
        ordinary = await api.get("/healthz", headers=behind)
        assert server.running.deployment.tally.requests[("GET", "2xx")] == 4
        assert server.running.deployment.tally.in_progress == 0
    connection, number = plain.headers["X-Coder-Request-Id"].split("-")
    assert number == "1"
    assert again.headers["X-Coder-Request-Id"] == f"{connection}-2"
    assert "Strict-Transport-Security" not in plain.headers
    for reply in (proxied, ordinary):
        assert reply.headers["X-Coder-Request-Id"] == "from-the-proxy"
        assert reply.headers["Strict-Transport-Security"].startswith("max-age=60")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    access = [line for line in lines if line["logger"] == "coder_agent.server.access"]
    assert [(line["path"], line["status"], line["client"], line["request_id"]) for line in access] == [
        ("/hello", 200, "127.0.0.1", f"{connection}-1"),
        ("/hello", 200, "127.0.0.1", f"{connection}-2"),
        ("/hello", 200, "192.0.2.9", "from-the-proxy"),
        ("/healthz", 200, "192.0.2.9", "from-the-proxy"),
    ]
    said = [line["request_id"] for line in lines if line["msg"] == "saying hello"]
    assert said == [f"{connection}-1", f"{connection}-2", "from-the-proxy"]

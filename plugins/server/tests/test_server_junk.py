"""Strange input on every route: refused or answered, never an internal error."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from coder_agent_server.app import build_app
from coder_agent_server.testing import Api, first_user, run_server
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

pytestmark = pytest.mark.anyio

STRANGE: tuple[Any, ...] = (
    *("", "x", "\ud800", "\0", "a\0b", "é" * 40, "-1", "9" * 30, "1e9", "../..", "%00", "me", "'", '"', "*", "%", "_"),
    *("a" * 5000, None, True, [], {}, 1.5, 10**30, -1),
)
FIELDS = (
    "email",
    "username",
    "password",
    "name",
    "agent_name",
    "token_name",
    "lifetime",
    "agent_id",
    "app_name",
    "next",
)
PARAMETERS = ("q", "limit", "offset", "after", "include_all", "next", "format", "version")
ENDLESS = ("watch", "reinit")
PER_ROUTE = 6


def routes_of(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path pattern) of every route."""
    for route in routes:
        if isinstance(route, Route):
            for method in sorted(route.methods or ()):
                yield method, prefix + route.path
        else:
            yield from routes_of(getattr(route, "routes", None) or (), prefix + str(getattr(route, "path", "")))


def text_of(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


async def test_no_route_breaks(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with run_server(tmp_path, login_rate_limit=-1) as server, first_user(server.url) as alice:
        app = build_app(server.running.deployment)
        inner = getattr(app, "_app", None)
        assert isinstance(inner, Starlette)
        routes = list(routes_of(inner.routes))
        assert len(routes) > 60
        for method, pattern in routes:
            if not any(word in pattern for word in (*ENDLESS, "logout")):
                for _ in range(PER_ROUTE):
                    await send_strange(alice, chance, method, pattern)


async def send_strange(api: Api, chance: random.Random, method: str, pattern: str) -> None:
    path = re.sub(r"\{[^}]+\}", lambda _: quote(text_of(chance.choice(STRANGE)), safe="")[:300] or "x", pattern)
    query = f"?{chance.choice(PARAMETERS)}={quote(text_of(chance.choice(STRANGE)))}" if chance.random() < 0.5 else ""
    body = json.dumps({field: chance.choice(STRANGE) for field in chance.sample(FIELDS, 5)})
    reply = await api.request(method, path + query, content=body if method == "POST" else None)
    assert reply.status_code < 500, (method, path, query, body)
    assert reply.headers["x-coder-build-version"]

"""Every route of the API × every kind of visitor, from the router itself: a new route is in the table at once.

What a route needs follows from its path, apart from the few named here. "Let in" = any answer but 401 and 404: a body
that makes no sense is refused (400) only after it is known that the visitor may ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from coder_agent_server.app import build_app
from coder_agent_server.testing import Api, Server, another_user, first_user, run_server
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.anyio

Kind = Literal["open", "agent", "deployment", "workspace", "user", "signed in"]

OPEN = {
    ("GET", "/"),
    ("GET", "/openapi.json"),
    ("GET", "/buildinfo"),
    ("GET", "/updatecheck"),
    ("GET", "/appearance"),
    ("GET", "/users/first"),
    ("POST", "/users/first"),
    ("POST", "/users/login"),
    ("GET", "/users/authmethods"),
}
OWN_WORD = {"/derp/verify", "/workspaceagents/me/pty"}
"""Answer by secrets of their own."""
FOR_OWNERS = {
    ("POST", "/users"),
    ("DELETE", "/users/{user}"),
    ("PUT", "/users/{user}/roles"),
    ("PUT", "/users/{user}/status/suspend"),
    ("PUT", "/users/{user}/status/activate"),
    ("GET", "/deployment/config"),
}
ENDS_SOMETHING = {
    ("POST", "/users/logout"),
    ("DELETE", "/workspaces/{workspace}"),
    ("POST", "/workspaceagents/{agent}/token"),
    ("POST", "/users/{user}/keys"),
    ("DELETE", "/users/{user}"),
    ("PUT", "/users/{user}/status/suspend"),
}
"""Would change the table under our feet: asked only by those who may not."""
ONLY_ASKS = {("POST", "/authcheck")}
"""Change nothing, although they are no GET."""
MADE_UP = {"key": "nothing", "slug": "nothing", "version": None}
UNKNOWN_THING = ("{key}", "{slug}", "port-share")
"""404 even for those who may: there is no such key, app or share."""


@dataclass(frozen=True)
class Case:
    method: str
    path: str

    @property
    def kind(self) -> Kind:
        if (self.method, self.path) in OPEN:
            return "open"
        if "/me/" in self.path:
            return "agent"
        if self.path.startswith("/debug/") or (self.method, self.path) in FOR_OWNERS:
            return "deployment"
        if re.search(r"{(workspace|agent|build)}", self.path):
            return "workspace"
        return "user" if "{user}" in self.path else "signed in"

    def lets_in(self, visitor: str) -> bool:
        """`visitor`: nobody, other, owner (of the workspace), admin (of the deployment)."""
        return {
            "open": True,
            "agent": False,
            "deployment": visitor == "admin",
            "workspace": visitor in ("owner", "admin"),
            "user": visitor in ("owner", "admin"),
            "signed in": visitor != "nobody",
        }[self.kind]


def cases(server: Server) -> Iterator[Case]:
    app = getattr(build_app(server.running.deployment), "_app", None)
    assert isinstance(app, Starlette)
    (api,) = [route for route in app.routes if isinstance(route, Mount) and route.path == "/api/v2"]
    for route in api.routes:
        if isinstance(route, WebSocketRoute) and "{path" not in route.path:
            yield Case("WEBSOCKET", route.path)
        elif isinstance(route, Route) and route.path not in OWN_WORD and "{path" not in route.path:
            yield from (Case(method, route.path) for method in sorted((route.methods or set()) - {"HEAD"}))


async def answer(api: Api, case: Case, values: dict[str, str]) -> int:
    path = "/api/v2" + re.sub(r"{(\w+)(?::\w+)?}", lambda match: values.get(match[1], "nothing"), case.path)
    if case.method == "WEBSOCKET":
        headers = {"Coder-Session-Token": api.token} if api.token else {}
        try:
            async with connect(str(api.base_url).rstrip("/").replace("http", "ws") + path, additional_headers=headers):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code
    async with api.stream(case.method, path, json={} if case.method != "GET" else None) as reply:
        return int(reply.status_code)


async def values_for(bob: Api) -> dict[str, str]:
    made: dict[str, Any] = (await bob.post("/api/v2/users/me/workspaces", json={"name": "dev"})).json()
    build = made["latest_build"]
    return {
        "workspace": made["id"],
        "agent": build["resources"][0]["agents"][0]["id"],
        "build": build["id"],
        "version": build["template_version_id"],
        "user": "bob",
        "name": "dev",
        "organization": "default",
    }


async def token(api: Api, scope: str) -> str:
    reply = await api.post("/api/v2/users/me/keys/tokens", json={"scope": scope, "token_name": scope.replace(":", "-")})
    key: str = reply.json()["key"]
    return key


async def test_every_route_for_every_visitor(tmp_path: Path) -> None:
    wrong: list[str] = []
    counted = 0
    async with (
        run_server(tmp_path, login_rate_limit=-1) as server,
        first_user(server.url) as alice,
        another_user(alice, server.url, "bob") as bob,
        another_user(alice, server.url, "carol") as carol,
        Api(server.url) as nobody,
        Api(server.url, await token(bob, "workspace:read")) as reader,
        Api(server.url, await token(bob, "application_connect")) as app_key,
    ):
        values = await values_for(bob)
        table = list(cases(server))
        visitors = {"nobody": nobody, "other": carol, "owner": bob, "admin": alice}
        for case in table:
            for visitor, api in visitors.items():
                may = case.lets_in(visitor)
                if may and (case.method, case.path) in ENDS_SOMETHING:
                    continue
                status = await answer(api, case, values)
                counted += 1
                if not fits(case, visitor, may, status):
                    wrong.append(f"{case.method} {case.path} ({case.kind}) for {visitor}: {status}")
            for name, api in (("a key for reading", reader), ("a key for apps", app_key)):
                reads = case.method in ("GET", "WEBSOCKET") or (case.method, case.path) in ONLY_ASKS
                harmless = case.kind == "open" or (name == "a key for reading" and reads)
                if not harmless and (case.method, case.path) != ("POST", "/users/logout"):
                    status = await answer(api, case, values)
                    counted += 1
                    if status not in (401, 404):
                        wrong.append(f"{case.method} {case.path} for {name}: {status}")
    assert not wrong, "\n".join(wrong)
    assert counted > 300


def fits(case: Case, visitor: str, may: bool, status: int) -> bool:
    if not may:
        return status == 401 if visitor == "nobody" or case.kind == "agent" else status == 404
    if status == 404:
        return any(part in case.path for part in UNKNOWN_THING) or case.path == "/users/first"
    return status != 401 or case.path == "/users/login"


async def test_a_form_of_another_site_changes_nothing(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server, first_user(server.url) as alice:
        cookies = {"coder_session_token": alice.token}
        async with httpx2.AsyncClient(base_url=server.url, cookies=cookies) as browser:
            for origin, status in (("https://evil.example", 403), ("null", 403), (server.url, 201)):
                body = {"name": f"w{status}"}
                reply = await browser.post("/api/v2/users/me/workspaces", json=body, headers={"Origin": origin})
                assert reply.status_code == status, origin


async def test_signing_in_makes_a_session_of_its_own(tmp_path: Path) -> None:
    """Whatever cookie somebody has planted before, it is not the session afterwards."""
    async with run_server(tmp_path) as server, first_user(server.url) as alice:
        planted = {"coder_session_token": alice.token}
        body = {"email": "alice@example.org", "password": "correct horse battery"}
        async with httpx2.AsyncClient(base_url=server.url, cookies=planted) as browser:
            reply = await browser.post("/api/v2/users/login", json=body)
        assert reply.status_code == 201
        assert reply.json()["session_token"] != alice.token


async def test_guessing_passwords_is_slowed_down(tmp_path: Path) -> None:
    async with run_server(tmp_path, login_rate_limit=5) as server, first_user(server.url), Api(server.url) as guesser:
        body = {"email": "alice@example.org", "password": "wrong"}
        statuses = [(await guesser.post("/api/v2/users/login", json=body)).status_code for _ in range(6)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        lie = {"X-Forwarded-For": "203.0.113.99", "X-Real-Ip": "203.0.113.98"}
        assert (await guesser.post("/api/v2/users/login", json=body, headers=lie)).status_code == 429

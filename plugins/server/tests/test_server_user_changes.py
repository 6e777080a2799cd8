"""What becomes of accounts: passwords, roles, suspension, the end; and that their keys end with them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from coder_agent_server.testing import PASSWORD, Api, Server, another_user, eventually, first_user, run_server, sign_in

pytestmark = pytest.mark.anyio

NEW_PASSWORD = "another horse battery"


async def login(url: str, name: str, password: str) -> httpx2.Response:
    async with Api(url) as anonymous:
        body = {"email": f"{name}@example.org", "password": password}
        return await anonymous.post("/api/v2/users/login", json=body)


async def test_a_suspended_user_is_out_until_he_is_activated(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob:
        token = (await bob.post("/api/v2/users/me/keys/tokens", json={"token_name": "ci"})).json()["key"]
        suspended = await alice.put("/api/v2/users/bob/status/suspend")
        assert (suspended.status_code, suspended.json()["status"]) == (200, "suspended")
        assert (await bob.get("/api/v2/users/me")).status_code == 401
        assert (await login(server.url, "bob", PASSWORD)).status_code == 401
        async with Api(server.url, token) as program:
            assert (await program.get("/api/v2/users/me")).status_code == 401
            assert (await alice.put("/api/v2/users/bob/status/activate")).json()["status"] == "active"
            assert (await program.get("/api/v2/users/me")).status_code == 200  # his tokens were kept
        assert (await login(server.url, "bob", PASSWORD)).status_code == 201


async def test_whoever_is_suspended_loses_what_he_holds_open(server: Server, alice: Api) -> None:
    told: list[str] = []
    async with another_user(alice, server.url, "bob") as bob:
        server.running.deployment.revocations.watch(bob.token.partition("-")[0], told.append)
        await alice.put("/api/v2/users/bob/status/suspend")

        async def is_told() -> bool:
            return told == ["the account is suspended"]

        await eventually(is_told)


async def test_an_account_with_workspaces_stays_and_one_without_goes(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob:
        made = (await bob.post("/api/v2/users/me/workspaces", json={"name": "dev"})).json()
        refused = await alice.delete("/api/v2/users/bob")
        assert refused.status_code == 417
        assert "has workspaces" in refused.json()["message"]
        assert (await alice.delete(f"/api/v2/workspaces/{made['id']}")).status_code < 300
        assert (await alice.delete("/api/v2/users/bob")).status_code == 200
        assert (await bob.get("/api/v2/users/me")).status_code == 401
        assert (await alice.get("/api/v2/users/bob")).status_code == 404
    async with another_user(alice, server.url, "bob") as again:  # the name is free
        assert (await again.get("/api/v2/workspaces")).json()["count"] == 0


async def test_a_new_password_ends_the_sessions_and_keeps_the_tokens(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob, sign_in(server.url, "bob") as elsewhere:
        token = (await bob.post("/api/v2/users/me/keys/tokens", json={"token_name": "ci"})).json()["key"]
        for body, field in (
            ({"old_password": "wrong", "password": NEW_PASSWORD}, "old_password"),
            ({"password": NEW_PASSWORD}, "old_password"),
            ({"old_password": PASSWORD, "password": "short"}, "password"),
        ):
            refused = await bob.put("/api/v2/users/me/password", json=body)
            assert refused.status_code == 400
            assert [fault["field"] for fault in refused.json()["validations"]] == [field]
        body = {"old_password": PASSWORD, "password": NEW_PASSWORD}
        assert (await bob.put("/api/v2/users/me/password", json=body)).status_code == 204
        for ended in (bob, elsewhere):
            assert (await ended.get("/api/v2/users/me")).status_code == 401
        async with Api(server.url, token) as program:
            assert (await program.get("/api/v2/users/me")).status_code == 200
        assert (await login(server.url, "bob", PASSWORD)).status_code == 401
        assert (await login(server.url, "bob", NEW_PASSWORD)).status_code == 201
        assert (await alice.put("/api/v2/users/bob/password", json={"password": PASSWORD})).status_code == 204
        assert (await login(server.url, "bob", PASSWORD)).status_code == 201


async def test_who_has_a_session_cannot_guess_its_password(tmp_path: Path) -> None:
    async with run_server(tmp_path, login_rate_limit=5) as server, first_user(server.url) as alice:
        body = {"old_password": "wrong", "password": NEW_PASSWORD}
        statuses = [(await alice.put("/api/v2/users/me/password", json=body)).status_code for _ in range(6)]
        assert statuses[0] == 400
        assert statuses[-1] == 429


async def test_an_owner_makes_owners_and_nobody_changes_himself(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob:
        assert (await bob.get("/api/v2/users/alice")).status_code == 404
        made = await alice.put("/api/v2/users/bob/roles", json={"roles": ["owner"]})
        assert [role["name"] for role in made.json()["roles"]] == ["owner"]
        assert (await bob.get("/api/v2/users/alice")).status_code == 200
        assert (await alice.put("/api/v2/users/bob/status/suspend")).status_code == 400  # the role goes first
        assert (await alice.put("/api/v2/users/bob/roles", json={"roles": ["king"]})).status_code == 400
        for method, path in (
            ("DELETE", ""),
            ("PUT", "/status/suspend"),
            ("PUT", "/status/activate"),
            ("PUT", "/roles"),
        ):
            assert (await alice.request(method, f"/api/v2/users/me{path}", json={"roles": []})).status_code == 400
        back = await alice.put("/api/v2/users/bob/roles", json={"roles": []})
        assert back.json()["roles"] == []
        assert (await bob.get("/api/v2/users/alice")).status_code == 404

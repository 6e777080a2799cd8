"""The first user, signing in, tokens: who gets in, and who does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import httpx2
import pytest
from coder_agent_server.front import VERSION_HEADER
from coder_agent_server.testing import PASSWORD, Api, Server, first_user, run_server
from coder_agent_server.tokens import ApiToken

pytestmark = pytest.mark.anyio


async def test_a_new_deployment_says_so_until_the_first_user_exists(server: Server) -> None:
    async with Api(server.url) as api:
        before = await api.get("/api/v2/users/first")
        assert before.status_code == 404
        assert before.json()["message"]
        assert before.headers[VERSION_HEADER].startswith("v0.0.0-")
        async with first_user(server.url):
            assert (await api.get("/api/v2/users/first")).status_code == 200


async def test_the_first_user_is_made_once_even_by_two_at_the_same_time(server: Server) -> None:
    statuses: list[int] = []

    async def attempt(name: str) -> None:
        async with Api(server.url) as api:
            body = {"email": f"{name}@example.org", "username": name, "password": PASSWORD}
            statuses.append((await api.post("/api/v2/users/first", json=body)).status_code)

    async with anyio.create_task_group() as tasks:
        for name in ("alice", "mallory", "eve"):
            tasks.start_soon(attempt, name)
    assert sorted(statuses) == [201, 403, 403]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "short"),
        ("password", "aaaaaaaaaaaa"),
        ("username", "a--b"),
        ("username", "me"),
        ("username", "x" * 33),
        ("username", "späti"),
        ("email", "nobody"),
    ],
)
async def test_a_bad_first_user_is_refused_with_the_field_and_without_the_value(
    server: Server, field: str, value: str
) -> None:
    body = {"email": "a@example.org", "username": "alice", "password": PASSWORD, field: value}
    async with Api(server.url) as api:
        reply = await api.post("/api/v2/users/first", json=body)
    assert reply.status_code == 400
    assert [v["field"] for v in reply.json()["validations"]] == [field]
    if field == "password":
        assert value not in reply.text


async def test_login_gives_a_token_and_a_cookie_that_scripts_cannot_read(server: Server, alice: Api) -> None:
    async with Api(server.url) as api:
        reply = await api.post("/api/v2/users/login", json={"email": "ALICE@example.org", "password": PASSWORD})
    assert reply.status_code == 201
    token = reply.json()["session_token"]
    assert ApiToken.parse(token) is not None
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith(f"coder_session_token={token}")
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert "Path=/" in cookie


@pytest.mark.parametrize("body", [{"email": "alice@example.org", "password": "wrong"}, {"email": "x@y"}, {}])
async def test_wrong_password_and_unknown_user_get_the_same_answer(
    server: Server, alice: Api, body: dict[str, str]
) -> None:
    async with Api(server.url) as api:
        reply = await api.post("/api/v2/users/login", json=body)
    assert reply.status_code == 401
    assert reply.json() == {"message": "Incorrect email or password."}


async def test_the_login_after_the_sixtieth_in_a_minute_is_refused(tmp_path: Path) -> None:
    async with run_server(tmp_path, login_rate_limit=3) as server, Api(server.url) as api:
        replies = [await api.post("/api/v2/users/login", json={"email": "x@y", "password": "z"}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [401, 401, 401, 429]
    assert int(replies[-1].headers["retry-after"]) > 0


Placing = Callable[[str], dict[str, dict[str, str]]]
PLACES: dict[str, Placing] = {
    "cookie": lambda token: {"headers": {"Cookie": f"coder_session_token={token}"}},
    "query": lambda token: {"params": {"coder_session_token": token}},
    "header": lambda token: {"headers": {"Coder-Session-Token": token}},
    "bearer": lambda token: {"headers": {"Authorization": f"Bearer {token}"}},
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_token_counts_wherever_it_is(server: Server, alice: Api, place: str) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        reply = await client.get("/api/v2/users/me", **PLACES[place](alice.token))  # type: ignore[arg-type]
        assert reply.status_code == 200
        assert reply.json()["username"] == "alice"
        other = await client.get("/api/v2/users/me", **PLACES[place](alice.token[:-1] + "!"))  # type: ignore[arg-type]
        assert other.status_code == 401


@pytest.mark.parametrize("token", ["", "x", "a-b", "a" * 10 + "-" + "b" * 22, "-".join(["a" * 10, "b" * 11, "c" * 10])])
async def test_what_is_no_token_is_401_with_a_message(server: Server, token: str) -> None:
    async with Api(server.url, token) as api:
        reply = await api.get("/api/v2/users/me")
    assert reply.status_code == 401
    assert "sign in" in reply.json()["message"]


async def test_logout_ends_the_session_and_no_other(server: Server, alice: Api) -> None:
    key = (await alice.post("/api/v2/users/me/keys")).json()["key"]
    assert (await alice.post("/api/v2/users/logout")).status_code == 200
    assert (await alice.get("/api/v2/users/me")).status_code == 401
    async with Api(server.url, key) as other:
        assert (await other.get("/api/v2/users/me")).status_code == 200


async def test_named_tokens_are_made_listed_and_revoked(server: Server, alice: Api) -> None:
    body = {"lifetime": 3600 * 10**9, "scope": "all", "token_name": "ci"}
    made = await alice.post("/api/v2/users/me/keys/tokens", json=body)
    assert made.status_code == 201
    again = await alice.post("/api/v2/users/me/keys/tokens", json=body)
    assert again.status_code == 409
    (listed,) = (await alice.get("/api/v2/users/me/keys/tokens?include_all=false")).json()
    assert (listed["token_name"], listed["lifetime_seconds"], listed["username"]) == ("ci", 3600, "alice")
    assert (await alice.get("/api/v2/users/me/keys/tokens/ci")).json()["id"] == listed["id"]
    async with Api(server.url, made.json()["key"]) as ci:
        assert (await ci.get("/api/v2/users/me")).status_code == 200
        assert (await alice.delete(f"/api/v2/users/me/keys/{listed['id']}")).status_code == 204
        assert (await ci.get("/api/v2/users/me")).status_code == 401


async def test_users_see_only_themselves_and_owners_everybody(alice: Api, bob: Api) -> None:
    assert (await bob.get("/api/v2/users/alice")).status_code == 404
    assert (await bob.get("/api/v2/users/alice")).json() == (await bob.get("/api/v2/users/nobody")).json()
    assert (await bob.get("/api/v2/users?q=")).json()["count"] == 1
    assert (await alice.get("/api/v2/users?q=&limit=1")).json()["count"] == 2
    assert (await alice.get("/api/v2/users/bob")).json()["roles"] == []
    assert (await bob.post("/api/v2/users", json={})).status_code == 404


async def test_another_sites_form_cannot_act_with_the_cookie(server: Server, alice: Api) -> None:
    headers = {"Cookie": f"coder_session_token={alice.token}", "Origin": "https://evil.example"}
    async with httpx2.AsyncClient(base_url=server.url) as browser:
        assert (await browser.post("/api/v2/users/me/keys", headers=headers)).status_code == 403
        assert (await browser.post("/cli-auth", headers=headers)).status_code == 403
        assert (
            await browser.post("/api/v2/users/me/keys", headers={**headers, "Origin": server.url})
        ).status_code == 201


async def test_secrets_are_not_in_the_database(server: Server, alice: Api) -> None:
    made = (await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})).json()
    path = server.running.deployment.options.database_path
    stored = b"".join(file.read_bytes() for file in path.parent.glob("coder.db*"))
    for secret in (PASSWORD, alice.token.partition("-")[2], made["agent_token"], made["agent_token"].replace("-", "")):
        assert secret.encode() not in stored


async def test_the_api_limit_counts_per_user(tmp_path: Path) -> None:
    async with run_server(tmp_path, api_rate_limit=2) as server, first_user(server.url) as api:
        statuses = [(await api.get("/api/v2/users/me")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]

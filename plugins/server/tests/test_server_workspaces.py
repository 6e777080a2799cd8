"""Workspaces: registered, listed, watched, deleted; and who may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from coder_agent_server.testing import Api

pytestmark = pytest.mark.anyio


async def register(api: Api, name: str, **more: str) -> dict[str, Any]:
    reply = await api.post("/api/v2/users/me/workspaces", json={"name": name, **more})
    assert reply.status_code == 201, reply.text
    document: dict[str, Any] = reply.json()
    return document


def agent_id(workspace: dict[str, Any]) -> str:
    return str(workspace["latest_build"]["resources"][0]["agents"][0]["id"])


async def test_the_token_is_shown_once(alice: Api) -> None:
    made = await register(alice, "dev", agent_name="box")
    assert made["agent_tokens"] == [{"agent_id": agent_id(made), "agent_name": "box", "token": made["agent_token"]}]
    assert made["agent_token"] not in (await alice.get(f"/api/v2/workspaces/{made['id']}")).text


async def test_the_organization_route_registers_too(alice: Api) -> None:
    reply = await alice.post("/api/v2/organizations/default/members/me/workspaces", json={"name": "dev"})
    assert reply.status_code == 201


async def test_a_name_is_taken_per_owner_only(alice: Api, bob: Api) -> None:
    await register(alice, "Dev")
    again = await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})
    assert again.status_code == 409
    assert again.json()["validations"][0]["field"] == "name"
    await register(bob, "dev")


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "a--b"}, {"name": "-a"}, {"name": "a b"}, {"name": 7}])
async def test_a_bad_name_is_refused(alice: Api, body: dict[str, object]) -> None:
    reply = await alice.post("/api/v2/users/me/workspaces", json=body)
    assert reply.status_code == 400
    assert reply.json()["validations"][0]["field"] == "name"


async def test_an_owner_may_register_for_others_and_others_may_not(alice: Api, bob: Api) -> None:
    assert (await alice.post("/api/v2/users/bob/workspaces", json={"name": "gift"})).status_code == 201
    assert (await bob.get("/api/v2/users/me/workspace/gift")).status_code == 200
    assert (await bob.post("/api/v2/users/alice/workspaces", json={"name": "theft"})).status_code == 404


async def test_forbidden_and_unknown_are_the_same_answer(alice: Api, bob: Api) -> None:
    made = await register(alice, "dev")
    agent, unknown = agent_id(made), str(uuid4())
    for method, path in [
        ("GET", "/workspaces/{id}"),
        ("GET", "/workspaces/{id}/watch"),
        ("DELETE", "/workspaces/{id}"),
        ("POST", "/workspaces/{id}/usage"),
        ("GET", "/workspaceagents/{agent}"),
        ("GET", "/workspaceagents/{agent}/connection"),
        ("GET", "/workspaceagents/{agent}/logs"),
        ("POST", "/workspaceagents/{agent}/token"),
        ("GET", "/workspacebuilds/{build}"),
    ]:
        ids = {"id": made["id"], "agent": agent, "build": made["latest_build"]["id"]}
        forbidden = await bob.request(method, "/api/v2" + path.format(**ids))
        missing = await bob.request(method, "/api/v2" + path.format(id=unknown, agent=unknown, build=unknown))
        assert forbidden.status_code == missing.status_code == 404, path
        assert forbidden.json() == missing.json(), path
    by_name = await bob.get("/api/v2/users/alice/workspace/dev")
    assert by_name.json() == (await bob.get("/api/v2/users/alice/workspace/nosuch")).json()
    assert by_name.status_code == 404
    assert (await bob.get("/api/v2/workspaces?q=")).json() == {"workspaces": [], "count": 0}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["alice/dev", "alice/web", "bob/dev"]),
        ("owner:me", ["alice/dev", "alice/web"]),
        ('owner:"me"', ["alice/dev", "alice/web"]),
        ("owner:bob", ["bob/dev"]),
        ("name:dev", ["alice/dev", "bob/dev"]),
        ('name:"de"', ["alice/dev", "bob/dev"]),
        ("name:%", []),
        ("owner:me name:web", ["alice/web"]),
        ("bob/dev", ["bob/dev"]),
        ("we", ["alice/web"]),
        ("status:running owner:bob", ["bob/dev"]),
        ("status:stopped", []),
    ],
)
async def test_searching(alice: Api, bob: Api, query: str, found: list[str]) -> None:
    for api, name in ((alice, "dev"), (alice, "web"), (bob, "dev")):
        await register(api, name)
    reply = (await alice.get("/api/v2/workspaces", params={"q": query})).json()
    assert [f"{w['owner_name']}/{w['name']}" for w in reply["workspaces"]] == found
    assert reply["count"] == len(found)


async def test_pages_of_a_list(alice: Api) -> None:
    for name in ("a", "b", "c"):
        await register(alice, name)
    reply = (await alice.get("/api/v2/workspaces?limit=1&offset=1")).json()
    assert ([w["name"] for w in reply["workspaces"]], reply["count"]) == (["b"], 3)
    for bad in ("limit=-1", "offset=x", "q=nonsense:1", "q=%22"):
        assert (await alice.get(f"/api/v2/workspaces?{bad}")).status_code == 400, bad


async def test_deleting_forgets_workspace_and_token(alice: Api) -> None:
    made = await register(alice, "dev")
    assert (await alice.delete(f"/api/v2/workspaces/{made['id']}")).status_code == 204
    assert (await alice.get(f"/api/v2/workspaces/{made['id']}")).status_code == 404
    assert (await alice.delete(f"/api/v2/workspaces/{made['id']}")).status_code == 404
    async with Api(str(alice.base_url), made["agent_token"]) as agent:
        assert (await agent.get("/api/v2/workspaceagents/me/reinit")).status_code == 401


async def test_usage_moves_the_last_use(alice: Api) -> None:
    made = await register(alice, "dev")
    path = f"/api/v2/workspaces/{made['id']}"
    assert (await alice.post(f"{path}/usage")).status_code == 204
    assert (await alice.post(f"{path}/usage", json={"agent_id": agent_id(made), "app_name": "ssh"})).status_code == 204
    assert (await alice.post(f"{path}/usage", json={"app_name": "ssh"})).status_code == 400
    assert (await alice.post(f"{path}/usage", json={"agent_id": agent_id(made), "app_name": "x"})).status_code == 400
    assert (await alice.get(path)).json()["last_used_at"] > made["last_used_at"]


async def test_watching_shows_the_workspace_at_once(alice: Api) -> None:
    made = await register(alice, "dev")
    async with alice.stream("GET", f"/api/v2/workspaces/{made['id']}/watch") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        event, data = await first_event(reply.aiter_lines())
    assert event == "data"
    assert data["id"] == made["id"]


async def first_event(lines: AsyncIterator[str]) -> tuple[str, dict[str, Any]]:
    event = ""
    async for line in lines:
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return event, json.loads(line.removeprefix("data: "))
    raise AssertionError("no event")


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[1]", 400), (b"\xff", 400), (b'"x"', 400), (b"[" * 100_000, 400)]
)
async def test_a_body_that_is_no_object_is_refused(alice: Api, content: bytes, status: int) -> None:
    reply = await alice.post("/api/v2/users/me/workspaces", content=content)
    assert reply.status_code == status
    assert reply.json()["message"]


async def test_an_endless_body_is_refused(alice: Api) -> None:
    reply = await alice.post("/api/v2/users/me/workspaces", content=b" " * (2 << 20))
    assert reply.status_code == 413

"""Apps and shared ports: declared, reported by the agent, part of documents and manifest; and who may."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from coder_agent_server.context import RoutesContext
from coder_agent_server.testing import Api, Server
from starlette.requests import Request

from coder_agent.hooks.interfaces import Identity
from coder_agent.hooks.web import SCOPE_APPS, AppHealth, SharingLevel

pytestmark = pytest.mark.anyio


async def register(api: Api, name: str, **more: object) -> dict[str, Any]:
    reply = await api.post("/api/v2/users/me/workspaces", json={"name": name, **more})
    assert reply.status_code == 201, reply.text
    document: dict[str, Any] = reply.json()
    return document


def agent_of(workspace: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workspace["latest_build"]["resources"][0]["agents"][0]
    return found


def apps_path(workspace: dict[str, Any]) -> str:
    return f"/api/v2/workspaceagents/{agent_of(workspace)['id']}/apps"


def request_with(token: str) -> Request:
    headers = [(b"coder-session-token", token.encode())] if token else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers})


async def visitor_of(context: RoutesContext, api: Api) -> Identity | None:
    return await context.authenticate(request_with(api.token))


async def test_an_app_is_part_of_its_agent_as_stock_clients_read_it(alice: Api) -> None:
    made = await register(alice, "dev", apps=[{"slug": "web", "url": "http://localhost:8080"}])
    reply = await alice.post(
        apps_path(made),
        json={"slug": "lab", "url": "http://localhost:8888", "subdomain": True, "sharing_level": "authenticated"},
    )
    assert reply.status_code == 201, reply.text
    document = (await alice.get(f"/api/v2/workspaces/{made['id']}")).json()
    lab, web = agent_of(document)["apps"]
    assert (web["slug"], web["url"], web["display_name"], web["health"]) == (
        "web",
        "http://localhost:8080",
        "web",
        "disabled",
    )
    assert lab["subdomain_name"] == "lab--dev--alice"
    assert lab["sharing_level"] == "authenticated"


BAD_APPS = {
    "nothing": {"slug": "web"},
    "both": {"slug": "web", "url": "http://localhost:8080", "command": "htop"},
    "port-like slug": {"slug": "8080", "url": "http://localhost:8080"},
    "port-like slug with s": {"slug": "8080s", "url": "http://localhost:8080"},
    "two dashes": {"slug": "a--b", "url": "http://localhost:8080"},
    "our own port": {"slug": "web", "url": "http://localhost:8"},
    "no port number": {"slug": "web", "url": "http://localhost:99999"},
    "another scheme": {"slug": "web", "url": "ftp://localhost"},
    "a script": {"slug": "web", "url": "javascript:alert(1)", "external": True},
    "a password": {"slug": "web", "url": "http://user:pass@localhost:8080"},
    "unknown level": {"slug": "web", "url": "http://localhost:8080", "sharing_level": "friends"},
    "control characters": {"slug": "web", "url": "http://localhost:8080/\r\nx"},
    "misspelt": {"slug": "web", "url": "http://localhost:8080", "sharinglevel": "owner"},
}


@pytest.mark.parametrize("body", BAD_APPS.values(), ids=BAD_APPS.keys())
async def test_a_wrong_app_is_refused(alice: Api, body: dict[str, object]) -> None:
    made = await register(alice, "dev")
    reply = await alice.post(apps_path(made), json=body)
    assert reply.status_code == 400
    assert reply.json()["validations"]


async def test_a_slug_is_taken_once_and_put_replaces(alice: Api) -> None:
    made = await register(alice, "dev")
    app = {"slug": "web", "url": "http://localhost:1234"}
    assert (await alice.post(apps_path(made), json=app)).status_code == 201
    assert (await alice.post(apps_path(made), json=app)).status_code == 409
    changed = await alice.put(f"{apps_path(made)}/web", json={**app, "url": "http://localhost:4321"})
    assert changed.json()["url"] == "http://localhost:4321"
    assert (await alice.put(f"{apps_path(made)}/other", json=app)).status_code == 400
    assert (await alice.delete(f"{apps_path(made)}/web")).status_code == 204
    assert (await alice.delete(f"{apps_path(made)}/web")).status_code == 404
    assert (await alice.get(apps_path(made))).json() == []


async def test_an_agent_declares_its_own_and_leaves_the_owners_alone(server: Server, alice: Api) -> None:
    made = await register(alice, "dev", apps=[{"slug": "web", "url": "http://localhost:1234"}])
    async with Api(server.url, made["agent_token"]) as agent:
        body = {"apps": [{"slug": slug, "url": "http://localhost:9999"} for slug in ("web", "lab")]}
        first = await agent.put("/api/v2/workspaceagents/me/apps", json=body)
        assert first.json() == {"changed": True, "declared_otherwise": ["web"]}
        again = await agent.put("/api/v2/workspaceagents/me/apps", json=body)
        assert again.json() == {"changed": False, "declared_otherwise": ["web"]}
        found = {app["slug"]: app for app in (await alice.get(apps_path(made))).json()}
        assert found["web"]["url"] == "http://localhost:1234"
        assert (found["lab"]["url"], found["lab"]["source"]) == ("http://localhost:9999", "agent")
        assert (await agent.put("/api/v2/workspaceagents/me/apps", json={"apps": []})).json()["changed"]
    assert [app["slug"] for app in (await alice.get(apps_path(made))).json()] == ["web"]


async def test_other_peoples_apps_do_not_exist(alice: Api, bob: Api) -> None:
    made = await register(alice, "dev", apps=[{"slug": "web", "url": "http://localhost:1234"}])
    app = {"slug": "lab", "url": "http://localhost:1234"}
    assert (await bob.get(apps_path(made))).status_code == 404
    assert (await bob.post(apps_path(made), json=app)).status_code == 404
    assert (await bob.delete(f"{apps_path(made)}/web")).status_code == 404


# ---------------------------------------------------------------- ports


async def test_ports_are_shared_changed_and_unshared(alice: Api) -> None:
    made = await register(alice, "dev")
    path = f"/api/v2/workspaces/{made['id']}/port-share"
    share = {"agent_name": "main", "port": 8080, "share_level": "authenticated", "protocol": "http"}
    reply = await alice.post(path, json=share)
    assert (reply.status_code, reply.json()["workspace_id"]) == (200, made["id"])
    await alice.post(path, json={**share, "share_level": "public", "protocol": "https"})
    (listed,) = (await alice.get(path)).json()["shares"]
    assert listed == {
        **share,
        "share_level": "public",
        "protocol": "https",
        "workspace_id": made["id"],
        "trusted": False,
    }
    which = {"agent_name": "main", "port": 8080}
    assert (await alice.request("DELETE", path, json=which)).status_code == 200
    assert (await alice.request("DELETE", path, json=which)).status_code == 404


@pytest.mark.parametrize("change", [{"port": 8}, {"port": 65536}, {"agent_name": "x"}, {"share_level": "all"}], ids=str)
async def test_a_wrong_share_is_refused(alice: Api, change: dict[str, object]) -> None:
    made = await register(alice, "dev")
    body = {"agent_name": "main", "port": 8080, "share_level": "public", **change}
    assert (await alice.post(f"/api/v2/workspaces/{made['id']}/port-share", json=body)).status_code == 400


# ---------------------------------------------------------------- what plugins are told


LEVELS = {
    # level: (owner, another member, another's app key, the deployment's owner, nobody)
    SharingLevel.OWNER: (True, False, False, True, False),
    SharingLevel.ORGANIZATION: (True, True, True, True, False),
    SharingLevel.AUTHENTICATED: (True, True, True, True, False),
    SharingLevel.PUBLIC: (True, True, True, True, True),
}


@pytest.mark.parametrize("level", list(LEVELS), ids=str)
async def test_who_may_open_an_app_and_a_port(server: Server, alice: Api, bob: Api, level: SharingLevel) -> None:
    app = {"slug": "web", "url": "http://localhost:8080", "sharing_level": level.value}
    made = await register(bob, "dev", apps=[app])
    share = {"agent_name": "main", "port": 8080, "share_level": level.value}
    assert (await bob.post(f"/api/v2/workspaces/{made['id']}/port-share", json=share)).status_code == 200
    async with server_user(server, alice, "carol") as carol:
        context = RoutesContext(server.running.deployment)
        other = await visitor_of(context, carol)
        assert other is not None
        narrow = await context.authenticate(request_with(await context.issue_key(other, SCOPE_APPS, 60)))
        assert narrow is not None
        assert narrow.scope == SCOPE_APPS
        visitors = [await visitor_of(context, bob), other, narrow, await visitor_of(context, alice), None]
        for visitor, may in zip(visitors, LEVELS[level], strict=True):
            found = await context.find_app("bob", "dev", None, "web", visitor=visitor)
            assert (found is not None) is may
            shared = await context.find_port("bob", "dev", "main", 8080, visitor=visitor)
            assert (shared is not None) is may
            private = await context.find_port("bob", "dev", "main", 9090, visitor=visitor)
            assert (private is not None) is LEVELS[SharingLevel.OWNER][visitors.index(visitor)]


def server_user(server: Server, owner: Api, name: str) -> Any:
    from coder_agent_server.testing import another_user

    return another_user(owner, server.url, name)


async def test_places_are_found_by_names_under_the_visitors_rights(server: Server, alice: Api, bob: Api) -> None:
    made = await register(bob, "dev")
    context = RoutesContext(server.running.deployment)
    owner, member = await visitor_of(context, alice), await visitor_of(context, bob)
    assert owner is not None
    assert member is not None
    assert owner.roles == {"owner", "member"}
    assert member.roles == {"member"}
    for name, visitor, found in (
        ("me", member, True),
        ("bob", owner, True),
        ("me", owner, False),
        ("bob", None, False),
    ):
        place = await context.find_agent(name, "dev", visitor=visitor)
        assert (place is not None) is found
    place = await context.find_agent("bob", "DEV", "main", visitor=member)
    assert place is not None
    assert place.agent_id == UUID(agent_of(made)["id"])
    assert place.label == "bob/dev.main"
    assert place.status == "connecting"
    assert await context.find_agent("bob", "dev", "other", visitor=member) is None


async def test_a_key_for_apps_opens_nothing_else_and_ends_with_the_session(server: Server, alice: Api) -> None:
    context = RoutesContext(server.running.deployment)
    visitor = await visitor_of(context, alice)
    assert visitor is not None
    key = await context.issue_key(visitor, SCOPE_APPS, timedelta(hours=1).total_seconds())
    async with Api(server.url, key) as narrow:
        for path in ("/users/me", "/workspaces", "/users/me/keys/tokens"):
            assert (await narrow.get(f"/api/v2{path}")).status_code == 404
        assert (await narrow.post("/api/v2/users/me/keys")).status_code == 404
    ended: list[str] = []
    narrow_visitor = await context.authenticate(request_with(key))
    assert narrow_visitor is not None
    context.watch_key(narrow_visitor, ended.append)
    with pytest.raises(ValueError, match="cannot make"):
        await context.issue_key(narrow_visitor, "all", 60)
    await alice.post("/api/v2/users/logout")
    assert ended == ["signed out"]
    assert await context.authenticate(request_with(key)) is None


async def test_secrets_differ_by_purpose_and_stay(server: Server) -> None:
    context = RoutesContext(server.running.deployment)
    assert context.secret("a") == context.secret("a") != context.secret("b")
    assert len(context.secret("a")) == 64


async def test_an_agent_sets_the_health_of_its_own_apps_only(server: Server, alice: Api) -> None:
    from coder_agent_server.store.apps import set_health

    body = [{"slug": "web", "url": "http://localhost:8080", "healthcheck_url": "http://localhost:8080/healthz"}]
    dev, other = await register(alice, "dev", apps=body), await register(alice, "other", apps=body)
    app = agent_of(dev)["apps"][0]
    assert app["health"] == "initializing"
    for workspace, expected in ((other, AppHealth.INITIALIZING), (dev, AppHealth.HEALTHY)):
        async with server.running.deployment.database.write() as session:
            await set_health(session, UUID(agent_of(workspace)["id"]), {UUID(app["id"]): "healthy"})
        (now,) = (await alice.get(apps_path(dev))).json()
        assert now["health"] == expected

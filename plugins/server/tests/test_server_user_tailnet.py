"""/tailnet: one control connection for all of a user's workspaces; apps in the manifest; what revoking a key ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from coder_agent_server.rpc.user import Seen, difference
from coder_agent_server.testing import Api, Server, eventually
from websockets.asyncio.client import connect

from coder_agent.http import open_websocket
from coder_agent.protocols.tailnet.proto import agent_pb2 as agent
from coder_agent.protocols.tailnet.proto import tailnet_pb2 as pb
from coder_agent.rpc import RpcConnection, RpcError

pytestmark = pytest.mark.anyio

TAILNET = "/coder.tailnet.v2.Tailnet/"
AGENT = "/coder.agent.v2.Agent/"


async def register(api: Api, name: str, **more: object) -> dict[str, Any]:
    document: dict[str, Any] = (await api.post("/api/v2/users/me/workspaces", json={"name": name, **more})).json()
    return document


def agent_id(workspace: dict[str, Any]) -> UUID:
    return UUID(workspace["agent_tokens"][0]["agent_id"])


async def my_id(api: Api) -> UUID:
    return UUID((await api.get("/api/v2/users/me")).json()["id"])


@asynccontextmanager
async def dial(url: str, path: str, token: str) -> AsyncIterator[RpcConnection]:
    stream = await open_websocket(f"{url}/api/v2{path}", headers={"Coder-Session-Token": token})
    async with RpcConnection(stream, client=True) as connection:
        yield connection


async def test_updates_tell_of_all_at_once_and_then_of_changes(server: Server, alice: Api, bob: Api) -> None:
    dev = await register(bob, "dev")
    await register(alice, "other")
    with anyio.fail_after(60):
        async with (
            dial(server.url, "/tailnet?version=2.3", bob.token) as link,
            link.stream(TAILNET + "WorkspaceUpdates", pb.WorkspaceUpdate) as stream,
        ):
            await stream.send(pb.WorkspaceUpdatesRequest(workspace_owner_id=(await my_id(bob)).bytes))
            first = await stream.receive()
            assert [(one.name, one.status) for one in first.upserted_workspaces] == [("dev", pb.Workspace.RUNNING)]
            assert [UUID(bytes=one.id) for one in first.upserted_agents] == [agent_id(dev)]
            await register(bob, "second")
            assert [one.name for one in (await stream.receive()).upserted_workspaces] == ["second"]
            await bob.delete(f"/api/v2/workspaces/{dev['id']}")
            gone = await stream.receive()
            assert [UUID(bytes=one.id) for one in gone.deleted_agents] == [agent_id(dev)]
            assert [one.name for one in gone.deleted_workspaces] == ["dev"]


async def test_updates_are_for_oneself(server: Server, alice: Api, bob: Api) -> None:
    with anyio.fail_after(60):
        async with (
            dial(server.url, "/tailnet?version=2.3", bob.token) as link,
            link.stream(TAILNET + "WorkspaceUpdates", pb.WorkspaceUpdate) as stream,
        ):
            await stream.send(pb.WorkspaceUpdatesRequest(workspace_owner_id=(await my_id(alice)).bytes))
            with pytest.raises(RpcError, match="one's own"):
                await stream.receive()


@pytest.mark.parametrize("mine", [True, False], ids=["own", "somebody else's"])
async def test_tunnels_lead_to_ones_own_agents_only(server: Server, alice: Api, bob: Api, mine: bool) -> None:
    dev = await register(bob if mine else alice, "dev")
    with anyio.fail_after(60):
        async with (
            dial(server.url, "/tailnet?version=2.3", bob.token) as link,
            link.stream(TAILNET + "Coordinate", pb.CoordinateResponse) as stream,
        ):
            request = pb.CoordinateRequest()
            request.add_tunnel.id = agent_id(dev).bytes
            await stream.send(request)
            if mine:
                request = pb.CoordinateRequest()
                request.disconnect.SetInParent()
                await stream.send(request)
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            else:
                assert "not found" in (await stream.receive()).error


async def test_the_difference_of_nothing_is_empty() -> None:
    workspaces: Seen = {uuid4(): ("dev", None)}
    agents: Seen = {uuid4(): ("main", uuid4())}
    assert difference(workspaces, workspaces, agents, agents).ByteSize() == 0
    renamed = difference({}, workspaces, {}, agents)
    assert (len(renamed.upserted_workspaces), len(renamed.upserted_agents)) == (1, 1)


# ---------------------------------------------------------------- keys


async def test_signing_out_ends_the_control_connection(server: Server, alice: Api) -> None:
    dev = await register(alice, "dev")
    socket_url = server.url.replace("http", "ws")
    headers = {"Coder-Session-Token": alice.token}
    for path in (f"/workspaceagents/{agent_id(dev)}/coordinate?version=2.0", "/tailnet?version=2.3"):
        token = (await alice.post("/api/v2/users/me/keys/tokens", json={"token_name": "t"})).json()["key"]
        headers = {"Coder-Session-Token": token}
        async with connect(f"{socket_url}/api/v2{path}", additional_headers=headers) as socket:
            await alice.delete(f"/api/v2/users/me/keys/{token[:10]}")
            with anyio.fail_after(30):
                await socket.wait_closed()
            assert socket.close_code == 1001
            assert socket.close_reason == "the token was revoked"


async def test_a_narrow_key_connects_and_changes_nothing(server: Server, alice: Api) -> None:
    dev = await register(alice, "dev")
    body = {"token_name": "t", "scope": "workspace:ssh"}
    token = (await alice.post("/api/v2/users/me/keys/tokens", json=body)).json()["key"]
    async with Api(server.url, token) as narrow:
        assert (await narrow.get(f"/api/v2/workspaces/{dev['id']}")).status_code == 200
        assert (await narrow.get(f"/api/v2/workspaceagents/{agent_id(dev)}/connection")).status_code == 200
        assert (await narrow.delete(f"/api/v2/workspaces/{dev['id']}")).status_code == 404
        assert (await narrow.post("/api/v2/users/me/keys")).status_code == 404
    bad = await alice.post("/api/v2/users/me/keys/tokens", json={"token_name": "u", "scope": "everything"})
    assert bad.status_code == 400


# ---------------------------------------------------------------- the agent's side, and the log


async def test_the_manifest_names_apps_and_the_agent_tells_their_health(server: Server, alice: Api) -> None:
    app = {
        "slug": "web",
        "url": "http://localhost:8080",
        "healthcheck_url": "http://localhost:8080/",
        "subdomain": True,
    }
    dev = await register(alice, "dev", apps=[app])
    async with dial(server.url, "/workspaceagents/me/rpc?version=2.10", dev["agent_token"]) as link:
        manifest = await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)
        (named,) = manifest.apps
        assert (named.slug, named.sharing_level, named.health) == ("web", 1, 2)
        assert (named.healthcheck.interval.seconds, named.healthcheck.threshold) == (5, 6)
        assert named.subdomain_name == "web--dev--alice"
        update = agent.BatchUpdateAppHealthRequest()
        update.updates.add(id=named.id, health=agent.HEALTHY)
        update.updates.add(id=b"short", health=agent.HEALTHY)
        update.updates.add(id=uuid4().bytes, health=77)
        await link.unary(AGENT + "BatchUpdateAppHealths", update, agent.BatchUpdateAppHealthResponse)
    apps = (await alice.get(f"/api/v2/workspaceagents/{agent_id(dev)}/apps")).json()
    assert apps[0]["health"] == "healthy"


async def test_connections_are_logged_for_their_owner(server: Server, alice: Api, bob: Api) -> None:
    dev = await register(bob, "dev")
    path = f"/workspaceagents/{agent_id(dev)}/coordinate?version=2.0"

    async def entries(api: Api, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await api.get("/api/v2/connectionlog", params={"q": query})).json()[
            "connection_logs"
        ]
        return found

    async def ended() -> bool:
        return bool(await entries(bob, "type:tunnel status:completed"))

    async def begun() -> bool:
        return bool(await entries(bob, "status:ongoing"))

    async with dial(server.url, path, bob.token):
        await eventually(begun)
    await eventually(ended)
    (entry,) = await entries(bob)
    assert (entry["workspace_name"], entry["type"], entry["user"]["username"]) == ("dev", "tunnel", "bob")
    assert entry["ssh_info"]["disconnect_time"] >= entry["connect_time"]
    assert await entries(alice, f"workspace_id:{dev['id']}") == [entry]
    assert await entries(alice, "workspace_owner:alice") == []
    assert (await alice.get("/api/v2/connectionlog", params={"q": "nonsense:1"})).status_code == 400


async def test_the_relay_map_is_followed_over_a_websocket(server: Server, alice: Api) -> None:
    headers = {"Coder-Session-Token": alice.token}
    url = server.url.replace("http", "ws") + "/api/v2/derp-map"
    with anyio.fail_after(30):
        async with connect(url, additional_headers=headers) as socket:
            document = json.loads(await socket.recv())
    assert list(document["Regions"]) == ["999"]
    assert (await alice.get("/api/v2/derp-map")).json() == document


async def test_the_configuration_is_for_owners_and_shows_no_secret(alice: Api, bob: Api) -> None:
    reply = await alice.get("/api/v2/deployment/config")
    options = {option["yaml"]: option for option in reply.json()["options"]}
    assert options["wildcard_access_url"]["env"] == "CODER_WILDCARD_ACCESS_URL"
    typed = ("block_direct_connections", "health_check_refresh", "proxy_trusted_headers")
    assert [options[name]["value"] for name in typed] == [False, 600 * 10**9, []]
    assert (await bob.get("/api/v2/deployment/config")).status_code == 404

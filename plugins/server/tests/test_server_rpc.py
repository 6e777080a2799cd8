"""Control connections over real WebSockets: what agents report, what users learn, how two meet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx2
import pytest
from coder_agent_server.resume import ResumeTokens
from coder_agent_server.testing import Api, Server, eventually, first_user, run_server, sign_in
from google.protobuf.empty_pb2 import Empty
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

from coder_agent.base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, node_id, overlay_address
from coder_agent.base.coordinate import CONNECTION_ENDED
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.errors import ApiError, CoderAgentError, Unauthenticated
from coder_agent.protocols.tailnet.convert import derp_map_from_proto, node_to_proto
from coder_agent.protocols.tailnet.proto import agent_pb2 as agent
from coder_agent.protocols.tailnet.proto import tailnet_pb2 as tailnet
from coder_agent.rpc import RpcConnection, RpcError, RpcStream
from coder_agent.runtime.websocket import WebSocketStream, open_websocket

pytestmark = pytest.mark.anyio

AGENT = "/coder.agent.v2.Agent/"
TAILNET = "/coder.tailnet.v2.Tailnet/"
PeerUpdate = tailnet.CoordinateResponse.PeerUpdate
Coordination = RpcStream[tailnet.CoordinateResponse]


class Workspace:
    """A registered workspace and its agent's token."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.id = UUID(document["id"])
        self.agent_id = UUID(document["agent_tokens"][0]["agent_id"])
        self.token: str = document["agent_token"]
        self.name: str = document["name"]


@pytest.fixture
async def dev(alice: Api) -> Workspace:
    return await register(alice, "dev")


async def register(api: Api, name: str) -> Workspace:
    return Workspace((await api.post("/api/v2/users/me/workspaces", json={"name": name})).json())


@asynccontextmanager
async def dial(url: str, path: str, token: str) -> AsyncIterator[RpcConnection]:
    stream = await open_websocket(url + "/api/v2" + path, headers={"Coder-Session-Token": token})
    async with RpcConnection(stream, client=True) as connection:
        yield connection


def agent_link(url: str, workspace: Workspace, query: str = "version=2.10&role=agent") -> Any:
    return dial(url, f"/workspaceagents/me/rpc?{query}", workspace.token)


def client_link(url: str, workspace: Workspace, token: str, query: str = "version=2.0") -> Any:
    return dial(url, f"/workspaceagents/{workspace.agent_id}/coordinate?{query}", token)


async def document(api: Api, workspace: Workspace) -> dict[str, Any]:
    reply = await api.get(f"/api/v2/workspaceagents/{workspace.agent_id}")
    found: dict[str, Any] = reply.json()
    return found


async def has_status(api: Api, workspace: Workspace, status: str) -> None:
    async def check() -> bool:
        return bool((await document(api, workspace))["status"] == status)

    await eventually(check)


# ---------------------------------------------------------------- the agent service


async def test_the_manifest_has_what_stock_agents_dereference(server: Server, dev: Workspace) -> None:
    async with agent_link(server.url, dev) as link:
        manifest = await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)
    assert UUID(bytes=manifest.agent_id) == dev.agent_id
    assert UUID(bytes=manifest.workspace_id) == dev.id
    assert (manifest.agent_name, manifest.workspace_name, manifest.owner_username) == ("main", "dev", "alice")
    assert manifest.derp_map.HasField("home_params")
    assert list(manifest.derp_map.regions) == [999]
    assert not manifest.scripts


async def test_an_agent_connects_reports_and_leaves(server: Server, alice: Api, dev: Workspace) -> None:
    before = await document(alice, dev)
    assert (before["status"], before["health"]["healthy"]) == ("connecting", False)
    async with agent_link(server.url, dev) as link:
        await has_status(alice, dev, "connected")
        startup = agent.Startup(
            version="v2.30.0", expanded_directory="/home/alice", subsystems=[agent.Startup.EXECTRACE]
        )
        request = agent.UpdateStartupRequest(startup=startup)
        assert await link.unary(AGENT + "UpdateStartup", request, agent.Startup) == startup
        for state in (agent.Lifecycle.STARTING, agent.Lifecycle.READY):
            lifecycle = agent.Lifecycle(state=state)
            lifecycle.changed_at.FromDatetime(datetime(2026, 1, 2, 3, 4, 5 + state, tzinfo=UTC))
            sent = agent.UpdateLifecycleRequest(lifecycle=lifecycle)
            assert await link.unary(AGENT + "UpdateLifecycle", sent, agent.Lifecycle) == lifecycle
        here = await document(alice, dev)
        assert (here["status"], here["lifecycle_state"], here["version"]) == ("connected", "ready", "v2.30.0")
        assert (here["started_at"], here["ready_at"]) == ("2026-01-02T03:04:07Z", "2026-01-02T03:04:10Z")
        assert (here["api_version"], here["expanded_directory"]) == ("2.10", "/home/alice")
        assert here["subsystems"] == ["exectrace"]
        assert here["health"] == {"healthy": True, "reason": ""}
    await has_status(alice, dev, "disconnected")
    gone = await document(alice, dev)
    assert gone["disconnected_at"] is not None
    assert gone["lifecycle_state"] == "ready"  # the agent does not repeat it: it has to be kept
    assert gone["health"]["reason"] == "agent has lost connection"
    workspace = (await alice.get(f"/api/v2/workspaces/{dev.id}")).json()
    assert workspace["health"] == {"healthy": False, "failing_agents": [str(dev.agent_id)]}


async def test_every_call_that_stock_agents_insist_on_is_answered(server: Server, alice: Api, dev: Workspace) -> None:
    async with agent_link(server.url, dev) as link:
        stats = await link.unary(AGENT + "UpdateStats", agent.UpdateStatsRequest(), agent.UpdateStatsResponse)
        assert stats.report_interval.seconds == 30
        monitoring = await link.unary(
            AGENT + "GetResourcesMonitoringConfiguration",
            agent.GetResourcesMonitoringConfigurationRequest(),
            agent.GetResourcesMonitoringConfigurationResponse,
        )
        assert (monitoring.config.num_datapoints, monitoring.config.collection_interval_seconds) == (20, 10)
        assert not monitoring.HasField("memory")
        banners = await link.unary(
            AGENT + "GetAnnouncementBanners",
            agent.GetAnnouncementBannersRequest(),
            agent.GetAnnouncementBannersResponse,
        )
        assert not banners.announcement_banners
        await link.unary(AGENT + "GetServiceBanner", agent.GetServiceBannerRequest(), agent.ServiceBanner)
        report = agent.ReportConnectionRequest(
            connection=agent.Connection(id=uuid4().bytes, action=agent.Connection.CONNECT, type=agent.Connection.SSH)
        )
        await link.unary(AGENT + "ReportConnection", report, Empty)
        health = agent.BatchUpdateAppHealthRequest()
        await link.unary(AGENT + "BatchUpdateAppHealths", health, agent.BatchUpdateAppHealthResponse)
        metadata = agent.BatchUpdateMetadataRequest()
        await link.unary(AGENT + "BatchUpdateMetadata", metadata, agent.BatchUpdateMetadataResponse)
        with pytest.raises(RpcError) as unknown:
            await link.unary(AGENT + "PushContextState", Empty(), Empty)
        assert unknown.value.code == 12


async def test_logs_are_kept_up_to_a_limit(server: Server, alice: Api, dev: Workspace) -> None:
    async with agent_link(server.url, dev) as link:
        lines = [agent.Log(output=f"line {n}", level=agent.Log.WARN) for n in range(3)]
        request = agent.BatchCreateLogsRequest(log_source_id=uuid4().bytes, logs=lines)
        reply = await link.unary(AGENT + "BatchCreateLogs", request, agent.BatchCreateLogsResponse)
        assert not reply.log_limit_exceeded
        logs = (await alice.get(f"/api/v2/workspaceagents/{dev.agent_id}/logs")).json()
        assert [(log["output"], log["level"]) for log in logs] == [(f"line {n}", "warn") for n in range(3)]
        later = (await alice.get(f"/api/v2/workspaceagents/{dev.agent_id}/logs?after={logs[1]['id']}")).json()
        assert later == logs[2:]
        flood = agent.BatchCreateLogsRequest(log_source_id=uuid4().bytes, logs=[agent.Log(output="x" * (1 << 20))])
        reply = await link.unary(AGENT + "BatchCreateLogs", flood, agent.BatchCreateLogsResponse)
        assert reply.log_limit_exceeded
        assert (await document(alice, dev))["logs_overflowed"] is True
        with pytest.raises(RpcError, match="log_source_id"):
            await link.unary(AGENT + "BatchCreateLogs", agent.BatchCreateLogsRequest(), agent.BatchCreateLogsResponse)


async def test_nonsense_from_an_agent_is_an_error_and_nothing_else(server: Server, alice: Api, dev: Workspace) -> None:
    async with agent_link(server.url, dev) as link:
        for state in (0, 99):
            request = agent.UpdateLifecycleRequest()
            request.lifecycle.state = state  # type: ignore[assignment]
            with pytest.raises(RpcError, match="lifecycle"):
                await link.unary(AGENT + "UpdateLifecycle", request, agent.Lifecycle)
        far = agent.UpdateLifecycleRequest(lifecycle=agent.Lifecycle(state=agent.Lifecycle.READY))
        far.lifecycle.changed_at.seconds = 1 << 60
        await link.unary(AGENT + "UpdateLifecycle", far, agent.Lifecycle)
        assert (await document(alice, dev))["ready_at"].startswith(str(datetime.now(UTC).year))


@pytest.mark.parametrize("token", ["", "not-a-uuid", str(UUID(int=0)), str(UUID(int=2**100, version=4))])
async def test_a_wrong_agent_token_is_401(server: Server, alice: Api, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await open_websocket(
            server.url + "/api/v2/workspaceagents/me/rpc?version=2.10", headers={"Coder-Session-Token": token}
        )


@pytest.mark.parametrize("version", ["2.0", "2.10", "2.99"])
async def test_any_minor_of_our_major_is_accepted(server: Server, dev: Workspace, version: str) -> None:
    async with agent_link(server.url, dev, f"version={version}") as link:
        await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)


@pytest.mark.parametrize("version", ["1.0", "3.0", "2", "2.x", "x"])
async def test_any_other_version_is_refused_with_its_field(server: Server, dev: Workspace, version: str) -> None:
    with pytest.raises(ApiError, match="Unknown or unsupported API version") as refused:
        await open_websocket(
            f"{server.url}/api/v2/workspaceagents/me/rpc?version={version}", headers={"Coder-Session-Token": dev.token}
        )
    assert (refused.value.status, refused.value.validations[0][0]) == (400, "version")


async def test_the_token_counts_in_the_cookie_too(server: Server, dev: Workspace) -> None:
    headers = {"Cookie": f"coder_session_token={dev.token}"}
    stream = await open_websocket(server.url + "/api/v2/workspaceagents/me/rpc", headers=headers)
    async with RpcConnection(stream, client=True) as link:
        await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)


async def test_a_log_shippers_connection_says_nothing_about_the_agent(
    server: Server, alice: Api, dev: Workspace
) -> None:
    async with agent_link(server.url, dev, "version=2.10&role=logstream") as link:
        await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)
        assert (await document(alice, dev))["status"] == "connecting"


async def test_a_second_connection_takes_over_and_the_firsts_end_changes_nothing(
    server: Server, alice: Api, dev: Workspace
) -> None:
    async with agent_link(server.url, dev) as first:
        await has_status(alice, dev, "connected")
        async with agent_link(server.url, dev) as second:
            reason = await first.wait_closed()
            assert "took over" in reason.message
            await second.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)
            assert (await document(alice, dev))["status"] == "connected"


async def test_a_replaced_token_ends_the_connection_and_stops_working(
    server: Server, alice: Api, dev: Workspace
) -> None:
    async with agent_link(server.url, dev) as link:
        await has_status(alice, dev, "connected")
        reply = await alice.post(f"/api/v2/workspaceagents/{dev.agent_id}/token")
        assert reply.status_code == 201
        assert "token of this agent was replaced" in (await link.wait_closed()).message
    with pytest.raises(Unauthenticated):
        await open_websocket(server.url + "/api/v2/workspaceagents/me/rpc", headers={"Coder-Session-Token": dev.token})
    dev.token = reply.json()["token"]
    async with agent_link(server.url, dev) as link:
        await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)


async def test_an_agent_waits_for_a_reinit_that_never_comes(server: Server, dev: Workspace) -> None:
    async with (
        Api(server.url, dev.token) as api,
        api.stream("GET", "/api/v2/workspaceagents/me/reinit?wait=true") as reply,
    ):
        assert reply.status_code == 200
        assert await anext(reply.aiter_lines()) == "event: ping"


# ---------------------------------------------------------------- coordination


def make_node(peer: UUID, number: int, *, prefixes: tuple[bytes, ...] = (TAILSCALE_PREFIX, CODER_PREFIX)) -> Node:
    addresses = tuple(IPv6Network(overlay_address(prefix, peer)) for prefix in prefixes)
    return Node(
        id=node_id(peer),
        key=NodePublic(bytes([number]) * 32),
        disco=DiscoPublic(bytes([number + 100]) * 32),
        preferred_derp=999,
        addresses=addresses,
        allowed_ips=addresses,
        derp_latency={"999-v4": 0.0015},
    )


@asynccontextmanager
async def coordinate(link: RpcConnection) -> AsyncIterator[Coordination]:
    async with link.stream(TAILNET + "Coordinate", tailnet.CoordinateResponse) as stream:
        yield stream


async def publish(stream: Coordination, node: Node) -> None:
    update = tailnet.CoordinateRequest.UpdateSelf(node=node_to_proto(node))
    await stream.send(tailnet.CoordinateRequest(update_self=update))


async def add_tunnel(stream: Coordination, peer: UUID) -> None:
    await stream.send(tailnet.CoordinateRequest(add_tunnel=tailnet.CoordinateRequest.Tunnel(id=peer.bytes)))


async def next_update(stream: Coordination, kind: int) -> Any:
    with anyio.fail_after(30):
        while True:
            response = await stream.receive()
            assert not response.error, response.error
            for update in response.peer_updates:
                if update.kind == kind:
                    return update


async def test_agent_and_client_meet_acknowledge_and_part(server: Server, alice: Api, dev: Workspace) -> None:
    client_node = make_node(uuid4(), 7, prefixes=(TAILSCALE_PREFIX,))
    async with (
        agent_link(server.url, dev) as its,
        coordinate(its) as agent_side,
        client_link(server.url, dev, alice.token) as mine,
        coordinate(mine) as client_side,
    ):
        await publish(agent_side, make_node(dev.agent_id, 1))
        await add_tunnel(client_side, dev.agent_id)
        await publish(client_side, client_node)
        seen = await next_update(client_side, PeerUpdate.NODE)
        assert UUID(bytes=seen.id) == dev.agent_id
        assert seen.node.key == b"np" + bytes([1]) * 32
        met = await next_update(agent_side, PeerUpdate.NODE)
        assert met.node.key == b"np" + bytes([7]) * 32
        ready = tailnet.CoordinateRequest()
        ready.ready_for_handshake.add(id=met.id)
        await agent_side.send(ready)
        assert UUID(bytes=(await next_update(client_side, PeerUpdate.READY_FOR_HANDSHAKE)).id) == dev.agent_id
        latency = (await document(alice, dev))["latency"]
        assert latency == {"Coder Embedded Relay": {"preferred": True, "latency_ms": 1.5}}
        await client_side.send(tailnet.CoordinateRequest(disconnect=tailnet.CoordinateRequest.Disconnect()))
        assert (await next_update(agent_side, PeerUpdate.DISCONNECTED)).id == met.id
        with anyio.fail_after(30):
            async for _ in client_side:
                pass  # the server ends the stream after a goodbye


async def test_an_agent_that_just_dies_is_lost_and_comes_back(server: Server, alice: Api, dev: Workspace) -> None:
    async with client_link(server.url, dev, alice.token) as mine, coordinate(mine) as client_side:
        await add_tunnel(client_side, dev.agent_id)
        for number in (1, 2):
            async with agent_link(server.url, dev) as its, coordinate(its) as agent_side:
                await publish(agent_side, make_node(dev.agent_id, number))
                seen = await next_update(client_side, PeerUpdate.NODE)
                assert seen.node.key == b"np" + bytes([number]) * 32
            await next_update(client_side, PeerUpdate.LOST)


async def test_a_killed_clients_end_is_told_apart_from_silence(server: Server, alice: Api, dev: Workspace) -> None:
    """Its system closes the connection; nobody closes the call."""
    async with agent_link(server.url, dev) as its, coordinate(its) as agent_side:
        await publish(agent_side, make_node(dev.agent_id, 1))
        async with client_link(server.url, dev, alice.token) as mine, coordinate(mine) as client_side:
            await add_tunnel(client_side, dev.agent_id)
            await publish(client_side, make_node(uuid4(), 7, prefixes=(TAILSCALE_PREFIX,)))
            await next_update(agent_side, PeerUpdate.NODE)
            await mine.aclose()
        gone = await next_update(agent_side, PeerUpdate.LOST)
        assert gone.reason == CONNECTION_ENDED


async def test_a_client_may_reach_its_agent_only(server: Server, alice: Api, dev: Workspace) -> None:
    other = await register(alice, "other")
    async with client_link(server.url, dev, alice.token) as mine, coordinate(mine) as stream:
        await add_tunnel(stream, other.agent_id)
        with anyio.fail_after(30):
            assert "its own agent" in (await stream.receive()).error


async def test_an_agent_may_not_take_anothers_address(server: Server, dev: Workspace) -> None:
    async with agent_link(server.url, dev) as link, coordinate(link) as stream:
        await publish(stream, make_node(uuid4(), 1))
        with anyio.fail_after(30):
            assert "not this agent's" in (await stream.receive()).error


async def test_strangers_and_unknown_agents_get_the_same_404(
    server: Server, alice: Api, bob: Api, dev: Workspace
) -> None:
    answers = []
    for agent_id in (dev.agent_id, uuid4()):
        with pytest.raises(ApiError) as refused:
            await open_websocket(
                f"{server.url}/api/v2/workspaceagents/{agent_id}/coordinate?version=2.0",
                headers={"Coder-Session-Token": bob.token},
            )
        answers.append((refused.value.status, refused.value.message))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_a_client_needs_a_version_and_a_token(server: Server, alice: Api, dev: Workspace) -> None:
    url = f"{server.url}/api/v2/workspaceagents/{dev.agent_id}/coordinate"
    with pytest.raises(ApiError) as old:
        await open_websocket(url, headers={"Coder-Session-Token": alice.token})
    assert old.value.status == 400
    with pytest.raises(Unauthenticated):
        await open_websocket(url + "?version=2.0")


async def test_the_relay_map_comes_at_once_and_when_it_changes(server: Server, alice: Api, dev: Workspace) -> None:
    live = server.running.deployment.derp_map
    async with (
        client_link(server.url, dev, alice.token) as link,
        link.stream(TAILNET + "StreamDERPMaps", tailnet.DERPMap) as maps,
    ):
        await maps.send(tailnet.StreamDERPMapsRequest())
        await maps.close_send()
        with anyio.fail_after(30):
            first = derp_map_from_proto(await maps.receive())
            assert first == live.current
            live.replace(replace(first, region_score={999: 2.0}))
            assert derp_map_from_proto(await maps.receive()).region_score == {999: 2.0}


async def test_telemetry_is_thanked_for_and_dropped(server: Server, alice: Api, dev: Workspace) -> None:
    async with client_link(server.url, dev, alice.token) as link:
        await link.unary(TAILNET + "PostTelemetry", tailnet.TelemetryRequest(), tailnet.TelemetryResponse)


async def resume_token(link: RpcConnection) -> tailnet.RefreshResumeTokenResponse:
    return await link.unary(
        TAILNET + "RefreshResumeToken", tailnet.RefreshResumeTokenRequest(), tailnet.RefreshResumeTokenResponse
    )


async def test_a_client_keeps_its_id_over_a_restart_of_the_server(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server, first_user(server.url) as alice:
        dev = await register(alice, "dev")
        async with client_link(server.url, dev, alice.token) as link:
            token = await resume_token(link)
        assert token.refresh_in.seconds == 12 * 3600
        assert 23 * 3600 < token.expires_at.seconds - datetime.now(UTC).timestamp() < 25 * 3600
    async with run_server(tmp_path) as server, sign_in(server.url, "alice") as alice:
        query = f"version=2.0&resume_token={token.token}"
        async with client_link(server.url, dev, alice.token, query) as mine, coordinate(mine) as client_side:
            await add_tunnel(client_side, dev.agent_id)
            await publish(client_side, make_node(uuid4(), 7))
            async with agent_link(server.url, dev) as its, coordinate(its) as agent_side:
                met = await next_update(agent_side, PeerUpdate.NODE)
                tokens = ResumeTokens(server.running.deployment.facts.resume_key, server.running.deployment.facts.id)
                assert UUID(bytes=met.id) == tokens.verify(token.token, datetime.now(UTC))


async def test_a_bad_resume_token_is_refused_with_its_field(server: Server, alice: Api, dev: Workspace) -> None:
    url = f"{server.url}/api/v2/workspaceagents/{dev.agent_id}/coordinate?version=2.0&resume_token=forged"
    async with httpx2.AsyncClient() as client:
        headers = {
            "Coder-Session-Token": alice.token,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        reply = await client.get(url, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["validations"][0]["field"] == "resume_token"
    assert reply.headers["x-coder-build-version"].startswith("v0.0.0-")


async def test_deleting_a_workspace_tells_everybody_why(server: Server, alice: Api, dev: Workspace) -> None:
    async with (
        agent_link(server.url, dev) as its,
        coordinate(its) as agent_side,
        client_link(server.url, dev, alice.token) as mine,
        coordinate(mine) as client_side,
    ):
        await publish(agent_side, make_node(dev.agent_id, 1))
        await add_tunnel(client_side, dev.agent_id)
        await next_update(client_side, PeerUpdate.NODE)
        assert (await alice.delete(f"/api/v2/workspaces/{dev.id}")).status_code == 204
        with anyio.fail_after(30):
            for link in (its, mine):
                assert "workspace alice/dev was deleted" in (await link.wait_closed()).message


async def test_a_stopping_server_says_so(tmp_path: Path) -> None:
    closed: list[CoderAgentError] = []
    async with anyio.create_task_group() as tasks, run_server(tmp_path) as server, first_user(server.url) as alice:
        dev = await register(alice, "dev")
        ready = anyio.Event()

        async def stay() -> None:
            async with agent_link(server.url, dev) as link:
                ready.set()
                closed.append(await link.wait_closed())

        tasks.start_soon(stay)
        await ready.wait()
        await has_status(alice, dev, "connected")
    assert "the server is shutting down" in closed[0].message


async def drain(stream: WebSocketStream) -> None:
    while True:
        await stream.receive()


@pytest.mark.parametrize("junk", [b"\0" * 64, b"\xff" * 4096, b"\0\0\0\1\0\0\0\1\xff\xff\xff\xff"])
async def test_junk_ends_that_connection_only(server: Server, alice: Api, dev: Workspace, junk: bytes) -> None:
    stream = await open_websocket(
        server.url + "/api/v2/workspaceagents/me/rpc", headers={"Coder-Session-Token": dev.token}
    )
    await stream.send(junk)
    with anyio.fail_after(30), pytest.raises(CoderAgentError):
        await drain(stream)
    await stream.aclose()
    async with agent_link(server.url, dev) as link:
        await link.unary(AGENT + "GetManifest", agent.GetManifestRequest(), agent.Manifest)


async def test_logs_are_followed_until_the_agent_has_started(server: Server, alice: Api, dev: Workspace) -> None:
    url = f"{server.url.replace('http', 'ws')}/api/v2/workspaceagents/{dev.agent_id}/logs?follow&after=0"
    headers = {"Coder-Session-Token": alice.token}
    async with (
        agent_link(server.url, dev) as link,
        connect(url, additional_headers=headers, proxy=None) as logs,
    ):
        request = agent.BatchCreateLogsRequest(log_source_id=uuid4().bytes, logs=[agent.Log(output="working")])
        await link.unary(AGENT + "BatchCreateLogs", request, agent.BatchCreateLogsResponse)
        with anyio.fail_after(30):
            (line,) = json.loads(await logs.recv())
            assert line["output"] == "working"
            lifecycle = agent.UpdateLifecycleRequest(lifecycle=agent.Lifecycle(state=agent.Lifecycle.READY))
            await link.unary(AGENT + "UpdateLifecycle", lifecycle, agent.Lifecycle)
            with pytest.raises(ConnectionClosedOK):
                await logs.recv()


async def test_streams_that_would_never_end_do_not_hold_up_the_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_server(tmp_path) as server:
        stack = AsyncExitStack()
        alice = await stack.enter_async_context(first_user(server.url))
        dev = await register(alice, "dev")
        watch = await stack.enter_async_context(alice.stream("GET", f"/api/v2/workspaces/{dev.id}/watch"))
        assert watch.status_code == 200
        url = f"{server.url.replace('http', 'ws')}/api/v2/workspaceagents/{dev.agent_id}/logs?follow"
        headers = {"Coder-Session-Token": alice.token}
        await stack.enter_async_context(connect(url, additional_headers=headers, proxy=None))
    await stack.aclose()
    assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_page_of_another_site_cannot_open_a_control_connection(
    server: Server, alice: Api, dev: Workspace
) -> None:
    url = f"{server.url}/api/v2/workspaceagents/{dev.agent_id}/coordinate?version=2.0"
    cookie = {"Cookie": f"coder_session_token={alice.token}"}
    with pytest.raises(ApiError) as refused:
        await open_websocket(url, headers={**cookie, "Origin": "https://evil.example"})
    assert refused.value.status == 403
    stream = await open_websocket(url, headers={**cookie, "Origin": server.url})
    await stream.aclose()

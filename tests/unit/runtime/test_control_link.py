"""The control link against a small server of the test's: real WebSockets on loopback, our coordinator behind them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from coder_agent.base.coordinate import PeerRequest, UpdateKind
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.node import Node
from coder_agent.coordination.core import InMemoryCoordinator, Session
from coder_agent.coordination.roles import AgentAuth, ClientAuth, SingleTailnetAuth
from coder_agent.errors import ApiError, CoderAgentError, Unauthenticated
from coder_agent.protocols.tailnet.convert import derp_map_to_proto
from coder_agent.protocols.tailnet.proto import agent_pb2, tailnet_pb2
from coder_agent.rpc import Handler, RpcConnection, RpcStream, coordinate_handler, streaming, unary
from coder_agent.runtime import control_link
from coder_agent.runtime.agent_link import MAX_LOG, AgentStats, Manifest
from coder_agent.runtime.backoff import Backoff
from coder_agent.runtime.control_link import AgentMode, ClientMode, ControlLink
from coder_agent.runtime.start_scripts import Ending, Outcome, Script
from coder_agent.testing.contracts.coordinator import AGENT, CLIENT, OTHER, make_node

pytestmark = pytest.mark.anyio

NODE, DISCONNECTED, LOST, READY = UpdateKind
MAP = DerpMap(
    regions={
        999: DerpRegion(
            999, "coder", "Embedded", (DerpNode("999b", 999, "coder.example", stun_port=-1),), embedded_relay=True
        )
    }
)
AGENT_RPC = "/coder.agent.v2.Agent/"
TAILNET_RPC = "/coder.tailnet.v2.Tailnet/"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watcher:
    """Remembers and lets tests wait: no sleeping for something to have happened."""

    def __init__(self) -> None:
        self._changed = anyio.Event()

    def note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self._changed.wait()


class Sink(Watcher):
    """A ControlSink that writes everything down."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[DerpMap] = []
        self.updates: list[tuple[UUID, UpdateKind]] = []
        self.nodes: list[Node | None] = []
        self.links: list[str] = []
        self.manifests: list[Manifest] = []

    def on_derp_map(self, derp_map: DerpMap) -> None:
        self.maps.append(derp_map)
        self.note()

    def on_peer_update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        self.updates.append((peer, kind))
        self.nodes.append(node)
        self.note()

    def on_linked(self) -> None:
        self.links.append("up")
        self.note()

    def on_link_lost(self, reason: str) -> None:
        self.links.append(reason)
        self.note()

    def on_manifest(self, manifest: Manifest) -> None:
        self.manifests.append(manifest)
        self.note()


class Wire:
    """An accepted WebSocket as a byte stream."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def receive(self) -> bytes:
        try:
            data = await self.socket.recv(decode=False)
        except ConnectionClosed as exc:
            raise anyio.EndOfStream from exc
        assert isinstance(data, bytes)
        return data

    async def send(self, item: bytes, /) -> None:
        assert len(item) <= 32 * 1024
        try:
            await self.socket.send(item)
        except ConnectionClosed as exc:
            raise anyio.BrokenResourceError from exc

    async def aclose(self) -> None:
        await self.socket.close()


class NotingCoordinator(InMemoryCoordinator):
    """Tells when it has handled a request."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def handle(self, session: Session, request: PeerRequest) -> None:
        super().handle(session, request)
        self._note()


@dataclass
class FakeServer(Watcher):
    """As much of a coder server as a control link needs."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    lifecycle: list[int] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    sockets: list[ServerConnection] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    resume_token: str = "resume-1"
    stats: list[agent_pb2.Stats] = field(default_factory=list)
    stats_interval_ms: int = 30_000
    asked_for_interval: int = 0
    scripts: list[agent_pb2.WorkspaceAgentScript] = field(default_factory=list)
    logs: list[tuple[bytes, str, int]] = field(default_factory=list)
    timings: list[agent_pb2.Timing] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.coordinator = NotingCoordinator(self.note)

    def admit(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request.path)
        self.tokens.append(request.headers.get("Coder-Session-Token"))
        if not self.refusals:
            return None
        status, document = self.refusals.pop(0)
        body = json.dumps(document).encode()
        headers = Headers({"Content-Type": "application/json", "X-Coder-Build-Version": "v0.0.0-test"})
        headers["Content-Length"] = str(len(body))
        return Response(status, HTTPStatus(status).phrase, headers, body)

    async def handle(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        assert socket.request is not None
        parts = urlsplit(socket.request.path)
        if parts.path.endswith("/me/rpc"):
            handlers = self._agent_handlers()
        else:
            agent = UUID(parts.path.split("/")[-2])
            handlers = {
                f"{TAILNET_RPC}Coordinate": coordinate_handler(
                    self.coordinator, CLIENT, ClientAuth(agent), name="client"
                ),
                f"{TAILNET_RPC}RefreshResumeToken": unary(tailnet_pb2.RefreshResumeTokenRequest, self._resume),
            }
        handlers[f"{TAILNET_RPC}StreamDERPMaps"] = streaming(tailnet_pb2.StreamDERPMapsRequest, self._derp_maps)
        async with RpcConnection(Wire(socket), client=False) as connection:
            await connection.serve({path: h for path, h in handlers.items() if path not in self.missing})

    def _agent_handlers(self) -> dict[str, Handler]:
        return {
            f"{TAILNET_RPC}Coordinate": coordinate_handler(self.coordinator, AGENT, AgentAuth(AGENT), name="agent"),
            f"{AGENT_RPC}GetManifest": unary(agent_pb2.GetManifestRequest, self._manifest),
            f"{AGENT_RPC}UpdateStartup": unary(agent_pb2.UpdateStartupRequest, self._startup),
            f"{AGENT_RPC}UpdateLifecycle": unary(agent_pb2.UpdateLifecycleRequest, self._lifecycle),
            f"{AGENT_RPC}UpdateStats": unary(agent_pb2.UpdateStatsRequest, self._stats),
            f"{AGENT_RPC}GetAnnouncementBanners": unary(agent_pb2.GetAnnouncementBannersRequest, self._banners),
            f"{AGENT_RPC}BatchCreateLogs": unary(agent_pb2.BatchCreateLogsRequest, self._logs),
            f"{AGENT_RPC}ScriptCompleted": unary(agent_pb2.WorkspaceAgentScriptCompletedRequest, self._timing),
        }

    async def _resume(self, _: tailnet_pb2.RefreshResumeTokenRequest) -> tailnet_pb2.RefreshResumeTokenResponse:
        self.called.append("RefreshResumeToken")
        self.note()
        answer = tailnet_pb2.RefreshResumeTokenResponse(token=self.resume_token)
        answer.refresh_in.FromSeconds(12 * 3600)
        return answer

    async def _derp_maps(self, stream: RpcStream[tailnet_pb2.StreamDERPMapsRequest]) -> None:
        await stream.receive()
        await stream.send(derp_map_to_proto(MAP))
        await anyio.sleep_forever()

    async def _manifest(self, _: agent_pb2.GetManifestRequest) -> agent_pb2.Manifest:
        return agent_pb2.Manifest(
            agent_id=AGENT.bytes,
            workspace_id=OTHER.bytes,
            agent_name="main",
            workspace_name="dev",
            owner_username="alice",
            environment_variables={"A": "b"},
            scripts=self.scripts,
            disable_direct_connections=True,
            derp_map=derp_map_to_proto(MAP),
        )

    async def _startup(self, request: agent_pb2.UpdateStartupRequest) -> agent_pb2.Startup:
        self.called.append(f"UpdateStartup {request.startup.version}")
        return request.startup

    async def _lifecycle(self, request: agent_pb2.UpdateLifecycleRequest) -> agent_pb2.Lifecycle:
        assert request.lifecycle.changed_at.seconds > 1_600_000_000
        self.lifecycle.append(request.lifecycle.state)
        self.note()
        return request.lifecycle

    async def _stats(self, request: agent_pb2.UpdateStatsRequest) -> agent_pb2.UpdateStatsResponse:
        self.called.append("UpdateStats")
        if request.HasField("stats"):
            self.stats.append(request.stats)
        else:
            self.asked_for_interval += 1
        self.note()
        answer = agent_pb2.UpdateStatsResponse()
        answer.report_interval.FromMilliseconds(self.stats_interval_ms)
        return answer

    async def _banners(self, _: agent_pb2.GetAnnouncementBannersRequest) -> agent_pb2.GetAnnouncementBannersResponse:
        self.called.append("GetAnnouncementBanners")
        return agent_pb2.GetAnnouncementBannersResponse()

    async def _logs(self, request: agent_pb2.BatchCreateLogsRequest) -> agent_pb2.BatchCreateLogsResponse:
        self.logs += [(request.log_source_id, entry.output, entry.level) for entry in request.logs]
        self.note()
        return agent_pb2.BatchCreateLogsResponse()

    async def _timing(
        self, request: agent_pb2.WorkspaceAgentScriptCompletedRequest
    ) -> agent_pb2.WorkspaceAgentScriptCompletedResponse:
        self.timings.append(request.timing)
        self.note()
        return agent_pb2.WorkspaceAgentScriptCompletedResponse()

    def join(self, peer: UUID) -> Session:
        """A peer that the test plays itself; `until` hears its updates."""
        return self.coordinator.connect(peer, SingleTailnetAuth(), name="", wake=self.note)

    def agent_node(self) -> Node | None:
        return self.coordinator.node(AGENT)

    async def drop(self) -> None:
        """Hang up on everybody, as a server does that dies."""
        for socket in self.sockets:
            socket.transport.abort()
        self.sockets.clear()


@asynccontextmanager
async def serving(server: FakeServer, port: int = 0) -> AsyncIterator[Server]:
    async with serve(
        server.handle, "127.0.0.1", port, process_request=server.admit, compression=None, close_timeout=0.1
    ) as listener:
        (socket,) = listener.sockets
        server.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        yield listener
        await server.drop()


@asynccontextmanager
async def running(run: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield tasks
        tasks.cancel_scope.cancel()


def client_link(server: FakeServer, sink: Sink, token: str = "token") -> ControlLink:
    return ControlLink(server.url, token, mode=ClientMode(AGENT), sink=sink)


def agent_link(server: FakeServer, sink: Sink) -> ControlLink:
    return ControlLink(server.url, "token", mode=AgentMode("v1.2.3"), sink=sink)


# ---------------------------------------------------------------- clients


async def test_a_client_learns_map_and_agent_and_publishes_itself() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        agent = server.join(AGENT)
        agent.request(PeerRequest(update_self=make_node(AGENT)))
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        link.update_self(make_node(CLIENT))
        async with running(link.run):
            await sink.until(lambda: len(sink.updates) == 1 and len(sink.maps) == 1)
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
            told = [(u.id, u.kind, u.node) for r in agent.take() for u in r.updates]
    assert sink.links[0] == "up"
    assert sink.updates == [(AGENT, NODE)]
    assert sink.nodes == [make_node(AGENT)]
    assert sink.maps == [MAP]
    assert told == [(CLIENT, NODE, make_node(CLIENT))]
    assert server.tokens == ["token"]
    assert server.requests[0] == f"/api/v2/workspaceagents/{AGENT}/coordinate?version=2.0"


async def test_a_node_without_home_relay_is_never_sent() -> None:
    server, sink = FakeServer(), Sink()
    homeless = Node(1, make_node(CLIENT).key, make_node(CLIENT).disco, 0)
    async with serving(server):
        agent = server.join(AGENT)
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        link.update_self(homeless)
        async with running(link.run):
            await sink.until(lambda: bool(sink.maps))
            assert server.coordinator.node(CLIENT) is None
            link.update_self(make_node(CLIENT))
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
        assert [u.node for r in agent.take() for u in r.updates if u.kind is NODE] == [make_node(CLIENT)]


async def test_bursts_of_node_changes_become_few_updates() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        agent = server.join(AGENT)
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        received: list[int] = []
        async with running(link.run):
            for port in range(1, 51):
                link.update_self(make_node(CLIENT, port=port))
                await anyio.lowlevel.checkpoint()

            def newest() -> bool:
                received.extend(u.node.endpoints[0].port for r in agent.take() for u in r.updates if u.node)
                return received[-1:] == [50]

            await server.until(newest)
    assert len(received) <= 3


async def test_tunnels_are_asked_for_again_after_a_reconnect_and_the_peer_id_is_kept() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        agent = server.join(AGENT)
        agent.request(PeerRequest(update_self=make_node(AGENT)))
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        link.update_self(make_node(CLIENT))
        async with running(link.run):
            await sink.until(lambda: len(sink.updates) == 1)
            await server.until(lambda: "RefreshResumeToken" in server.called)
            await sink.until(lambda: bool(link._resume_token))
            await server.drop()
            await sink.until(lambda: sink.links.count("up") == 2 and len(sink.updates) == 2)
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
    assert "closed the connection" in sink.links[1] or "broke" in sink.links[1]
    assert parse_qs(urlsplit(server.requests[-1]).query)["resume_token"] == ["resume-1"]


async def test_after_a_sleep_the_connection_is_made_anew_without_waiting_for_the_old_one() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: sink.links == ["up"])
            link.reconnect()
            await sink.until(lambda: sink.links.count("up") == 2)
    assert "slept" in sink.links[1]
    assert len(server.requests) == 2


async def test_after_a_change_of_the_network_a_server_that_answers_is_kept() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: sink.links == ["up"])
            link.link_changed()
            link.update_self(make_node(CLIENT))
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
    assert (sink.links, len(server.requests)) == (["up"], 1)


async def test_a_connection_from_an_address_that_is_gone_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: sink.links == ["up"])
            monkeypatch.setattr(control_link, "is_ours", lambda address: False)
            link.link_changed()
            await sink.until(lambda: sink.links.count("up") == 2)
    assert "another address" in sink.links[1]


async def test_a_server_that_does_not_answer_after_a_change_of_the_network_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_link, "LINK_PATIENCE", 0.0)
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: sink.links == ["up"])
            link.link_changed()
            await sink.until(lambda: sink.links.count("up") == 2)
    assert "since the network changed" in sink.links[1]


async def test_a_change_of_the_network_ends_the_pause_between_two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self: 3600.0)
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: sink.links == ["up"])
            await server.drop()
            await sink.until(lambda: len(sink.links) == 2)
            await anyio.wait_all_tasks_blocked()
            link.link_changed()
            await sink.until(lambda: sink.links.count("up") == 2)


async def test_a_refused_resume_token_is_dropped() -> None:
    server, sink = FakeServer(), Sink()
    refusal = {"message": "Bad token.", "validations": [{"field": "resume_token", "detail": "expired"}]}
    async with serving(server):
        link = client_link(server, sink)
        link._resume_token = "stale"
        server.refusals.append((401, refusal))
        async with running(link.run):
            await sink.until(lambda: "up" in sink.links)
    assert ["resume_token" in path for path in server.requests[:2]] == [True, False]


async def test_a_server_without_resume_tokens_is_fine() -> None:
    server, sink = FakeServer(missing={f"{TAILNET_RPC}RefreshResumeToken"}), Sink()
    async with serving(server):
        link = client_link(server, sink)
        link.update_self(make_node(CLIENT))
        async with running(link.run):
            await sink.until(lambda: bool(sink.maps))
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
            assert sink.links == ["up"]


@pytest.mark.parametrize("status", [400, 404, 409, 500])
async def test_a_refusal_of_the_first_attempt_is_final_for_clients(status: int) -> None:
    server, sink = FakeServer(refusals=[(status, {"message": "Resource not found."})]), Sink()
    async with serving(server):
        with pytest.raises(ApiError, match="Resource not found") as caught:
            await client_link(server, sink).run()
    assert caught.value.status == status
    assert sink.links == []


async def test_a_wrong_token_is_final_and_not_repeated_in_the_error() -> None:
    server, sink = FakeServer(refusals=[(401, {"message": "You are signed out."})]), Sink()
    async with serving(server):
        with pytest.raises(Unauthenticated) as caught:
            await client_link(server, sink, token="s3cret").run()
    assert "coder login" in str(caught.value.hint)
    assert "s3cret" not in repr(caught.value)


async def test_later_refusals_are_retried() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        async with running(link.run):
            await sink.until(lambda: "up" in sink.links)
            server.refusals += [(404, {"message": "Gone."}), (401, {"message": "Who?"}), (503, {"message": "Busy."})]
            await server.drop()
            await sink.until(lambda: sink.links.count("up") == 2)
    assert server.refusals == []


async def test_a_server_that_is_away_is_tried_until_it_is_there() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        port = urlsplit(server.url).port
    assert port is not None
    link = client_link(server, sink)
    async with running(link.run), serving(server, port):
        await sink.until(lambda: "up" in sink.links)


async def test_a_goodbye_is_told_to_the_others() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        agent = server.join(AGENT)
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        link.update_self(make_node(CLIENT))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
            with anyio.fail_after(30):
                await link.aclose_gracefully()
        assert [u.kind for r in agent.take() for u in r.updates] == [NODE, DISCONNECTED]
    assert sink.links == ["up"]


async def test_a_cancelled_link_says_goodbye_too() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        agent = server.join(AGENT)
        link = client_link(server, sink)
        link.add_tunnel(AGENT)
        link.update_self(make_node(CLIENT))
        async with running(link.run):
            await server.until(lambda: server.coordinator.node(CLIENT) is not None)
        assert [u.kind for r in agent.take() for u in r.updates] == [NODE, DISCONNECTED]


async def test_leaving_while_the_server_is_away_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self: 3600.0)
    sink = Sink()
    link = ControlLink("http://127.0.0.1:9", "t", mode=ClientMode(AGENT), sink=sink)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(30):
            await link.aclose_gracefully()


async def test_a_refused_request_is_reported_as_the_reason() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = client_link(server, sink)
        link.add_tunnel(uuid4())
        async with running(link.run):
            await sink.until(lambda: len(sink.links) > 1)
    assert sink.links[1].startswith("the server refused: this connection may open a tunnel to its own agent only")


# ---------------------------------------------------------------- agents


async def test_an_agent_lives_its_life() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        client = server.join(CLIENT)
        client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        link = agent_link(server, sink)
        link.update_self(make_node(AGENT))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.run)
            await sink.until(lambda: sink.updates == [(CLIENT, NODE)])
            link.ready_for_handshake(CLIENT)
            seen: list[UpdateKind] = []

            def heard() -> bool:
                seen.extend(u.kind for r in client.take() for u in r.updates)
                return READY in seen

            await server.until(heard)
            await server.until(lambda: server.lifecycle == [2, 5])
            with anyio.fail_after(30):
                await link.aclose_gracefully()
    assert server.requests == ["/api/v2/workspaceagents/me/rpc?version=2.10&role=agent"]
    assert server.lifecycle == [2, 5, 6, 9]
    assert {"UpdateStartup v1.2.3", "UpdateStats", "GetAnnouncementBanners"} <= set(server.called)
    (manifest,) = sink.manifests
    assert (manifest.agent_id, manifest.workspace_id, manifest.owner_username) == (AGENT, OTHER, "alice")
    assert manifest.disable_direct_connections
    assert not manifest.derp_force_websockets
    assert manifest.derp_map == MAP
    assert manifest.environment == {"A": "b"}


async def test_an_agent_reports_each_state_once_however_often_it_connects() -> None:
    server, sink = FakeServer(), Sink()
    async with serving(server):
        link = agent_link(server, sink)
        link.update_self(make_node(AGENT))
        async with running(link.run):
            await server.until(lambda: server.lifecycle == [2, 5])
            assert link._reporter is not None
            await link._reporter.wait_delivered()  # else the last one is rightly repeated
            await server.drop()
            await sink.until(lambda: sink.links.count("up") == 2)
            await server.until(lambda: server.agent_node() is not None)
            assert server.lifecycle == [2, 5]
    assert len(sink.manifests) == 2


START = agent_pb2.WorkspaceAgentScript(
    id=b"i" * 16, log_source_id=b"s" * 16, display_name="hello", script="echo", run_on_start=True
)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([Outcome.OK, Outcome.LEFT_OPEN], 5),
        ([Outcome.OK, Outcome.TIMED_OUT], 3),
        ([Outcome.TIMED_OUT, Outcome.FAILED], 4),
    ],
    ids=["ready", "timeout", "error"],
)
async def test_an_agent_is_ready_when_its_start_scripts_are_over(outcomes: list[Outcome], state: int) -> None:
    stop = agent_pb2.WorkspaceAgentScript(id=b"j" * 16, script="exit", run_on_stop=True)
    server, sink = FakeServer(scripts=[START, stop]), Sink()
    async with serving(server):
        link = agent_link(server, sink)
        reporter = link.reporter
        assert reporter is not None
        async with running(link.run):
            await server.until(lambda: server.lifecycle == [2])
            (script,) = sink.manifests[0].start_scripts
            reporter.script_said(script.log_source, ["hello", "world"], error=False)
            reporter.script_said(script.log_source, ["ouch"], error=True)
            endings = [Ending(script, 1.7e9, 1.7e9 + 2.5, 7, outcome) for outcome in outcomes]
            for ending in endings:
                reporter.script_ended(ending)
            reporter.scripts_ended(endings)
            await server.until(lambda: server.lifecycle == [2, state] and len(server.timings) == 2)
    info, error = agent_pb2.Log.INFO, agent_pb2.Log.ERROR
    assert server.logs == [(b"s" * 16, "hello", info), (b"s" * 16, "world", info), (b"s" * 16, "ouch", error)]
    assert [int(timing.status) for timing in server.timings] == [int(outcome) for outcome in outcomes]
    assert (server.timings[0].script_id, server.timings[0].exit_code) == (b"i" * 16, 7)
    assert server.timings[0].end.ToMilliseconds() - server.timings[0].start.ToMilliseconds() == 2500


async def test_what_scripts_say_is_bounded_and_waits_for_a_server_that_takes_it() -> None:
    server, sink = FakeServer(scripts=[START], missing={f"{AGENT_RPC}ScriptCompleted"}), Sink()
    async with serving(server):
        link = agent_link(server, sink)
        reporter = link.reporter
        assert reporter is not None
        script = Script(START.id, START.log_source_id, "hello", "echo")
        reporter.script_ended(Ending(script, 1.0, 2.0, 0, Outcome.OK))  # not taken, and no reason to reconnect
        for _ in range(2):
            reporter.script_said(script.log_source, ["x" * (MAX_LOG - 1)], error=False)
        assert server.logs == []
        async with running(link.run):
            await server.until(lambda: len(server.logs) == 1)
    assert len(server.requests) == 1


async def test_an_agent_reports_traffic_at_the_servers_interval() -> None:
    server, sink = FakeServer(stats_interval_ms=5), Sink()
    reports = [AgentStats({"TCP": 1}, 1, 2.5, 3, 4, 5, 6, 7, 8), None, AgentStats(rx_bytes=9)]
    mode = AgentMode(stats=lambda: reports.pop(0) if reports else None)
    async with serving(server), running(ControlLink(server.url, "token", mode=mode, sink=sink).run):
        await server.until(lambda: len(server.stats) == 2)
    first, second = server.stats
    assert server.asked_for_interval == 1, "a report without anything in it would count as one"
    assert (dict(first.connections_by_proto), first.connection_count) == ({"TCP": 1}, 1)
    assert (first.connection_median_latency_ms, first.rx_packets, first.rx_bytes) == (2.5, 3, 4)
    assert (first.tx_packets, first.tx_bytes, second.rx_bytes) == (5, 6, 9)
    assert (first.session_count_ssh, first.session_count_reconnecting_pty) == (7, 8)
    assert second.connection_median_latency_ms < 0  # nobody is connected


@pytest.mark.parametrize(
    ("details", "asked"),
    [
        (["server is at version 2.4, behind requested minor version 2.10"], ["2.10", "2.4"]),
        (["server is at version 2.12, behind nobody knows what"], ["2.10", "2.0"]),
        (["server is at version 2.4, it says", "server is at version 2.4, and refuses it"], ["2.10", "2.4", "2.0"]),
        (["no such version"], ["2.10", "2.0"]),
    ],
    ids=["stock", "newer", "liar", "silent"],
)
async def test_an_agent_steps_down_to_an_older_server(details: list[str], asked: list[str]) -> None:
    refusals: list[tuple[int, dict[str, Any]]] = [
        (400, {"message": "Unknown API version", "validations": [{"field": "version", "detail": detail}]})
        for detail in details
    ]
    server, sink = FakeServer(refusals=refusals, missing={f"{AGENT_RPC}GetAnnouncementBanners"}), Sink()
    async with serving(server), running(agent_link(server, sink).run):
        await server.until(lambda: server.lifecycle == [2, 5])
    assert [path.partition("version=")[2].partition("&")[0] for path in server.requests] == asked


async def test_an_agent_retries_what_is_final_for_clients_but_not_a_wrong_token() -> None:
    server, sink = (
        FakeServer(refusals=[(404, {"message": "x"}), (500, {"message": "y"}), (401, {"message": "z"})]),
        Sink(),
    )
    async with serving(server):
        with pytest.raises(Unauthenticated, match="z"):
            await agent_link(server, sink).run()
    assert len(server.requests) == 3


async def test_something_else_behind_the_url_is_named() -> None:
    async def other(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, other)
        link = ControlLink(f"http://127.0.0.1:{port}", "t", mode=AgentMode(), sink=Sink())
        with pytest.raises(CoderAgentError, match="is not a coder server"):
            await link.run()
        tasks.cancel_scope.cancel()
    await listener.aclose()


def test_backoff_doubles_to_its_ceiling_and_is_never_longer() -> None:
    backoff = Backoff(0.05, 10.0, lambda: 0.0)
    delays = [backoff.next() for _ in range(10)]
    assert delays[:3] == [0.05, 0.1, 0.2]
    assert delays[-1] == control_link.BACKOFF_CEILING
    backoff.reset()
    assert backoff.next() == 0.05
    assert Backoff(1.0, 10.0, lambda: 1.0).next() == 0.75

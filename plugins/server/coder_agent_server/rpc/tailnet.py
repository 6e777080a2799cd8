"""The Tailnet service, which agents and users share: Coordinate, StreamDERPMaps, resume tokens."""

from __future__ import annotations

from uuid import UUID

import anyio
from google.protobuf.message import Message

from coder_agent.coordination.interface import CoordinatorSession, Role
from coder_agent.errors import CoderAgentError, RemoteProtocolError
from coder_agent.protocols.tailnet.convert import derp_map_to_proto, request_from_proto, response_to_proto
from coder_agent.protocols.tailnet.proto import tailnet_pb2 as pb
from coder_agent.rpc import Handlers, RpcStream, streaming, unary

from ..deployment import Deployment

SERVICE = "/coder.tailnet.v2.Tailnet/"


class TailnetService:
    """One peer's view of the tailnet. `role` decides what it may do."""

    def __init__(self, server: Deployment, peer_id: UUID, role: Role, name: str) -> None:
        self._server = server
        self._peer_id = peer_id
        self._role = role
        self._name = name

    def handlers(self) -> Handlers:
        """RPC paths and what answers them. WorkspaceUpdates is not among them: clients live without it."""
        return {
            SERVICE + "Coordinate": streaming(pb.CoordinateRequest, self.coordinate),
            SERVICE + "StreamDERPMaps": streaming(pb.StreamDERPMapsRequest, self.stream_derp_maps),
            SERVICE + "RefreshResumeToken": unary(pb.RefreshResumeTokenRequest, self.refresh_resume_token),
            SERVICE + "PostTelemetry": unary(pb.TelemetryRequest, self.post_telemetry),
        }

    async def coordinate(self, stream: RpcStream[pb.CoordinateRequest]) -> None:
        """Join the peer's stream to the coordinator until either side ends it."""
        wake = _Wake()
        session = self._server.coordinator.connect(self._peer_id, self._role, name=self._name, wake=wake.set)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_read_requests, stream, session, tasks.cancel_scope)
                await _write_responses(stream, session, wake)
                tasks.cancel_scope.cancel()
        finally:
            session.close()

    async def stream_derp_maps(self, stream: RpcStream[pb.StreamDERPMapsRequest]) -> None:
        """The relay map now and whenever it changes. Never ends by itself: the end would make the peer redial."""
        await stream.receive()
        async for derp_map in self._server.derp_map.follow():
            await stream.send(derp_map_to_proto(derp_map))

    async def refresh_resume_token(self, request: pb.RefreshResumeTokenRequest) -> Message:
        """A token with which this peer keeps its id when it reconnects."""
        issued = self._server.resume.issue(self._peer_id, self._server.clock())
        reply = pb.RefreshResumeTokenResponse(token=issued.text)
        reply.refresh_in.FromTimedelta(issued.refresh_in)
        reply.expires_at.FromDatetime(issued.expires_at)
        return reply

    async def post_telemetry(self, request: pb.TelemetryRequest) -> Message:
        """Thrown away: this server gathers nothing about connections."""
        return pb.TelemetryResponse()


class _Wake:
    """A flag that one task waits for; setting it twice before that counts once."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


async def _read_requests(
    stream: RpcStream[pb.CoordinateRequest], session: CoordinatorSession, scope: anyio.CancelScope
) -> None:
    """Requests to the coordinator. The end of the peer's stream ends the call, without waiting for more responses."""
    try:
        async for message in stream:
            try:
                session.request(request_from_proto(message))
            except RemoteProtocolError as exc:
                session.reject(exc.message)
            if session.ended:
                return  # the writer says the last words and ends the call
    except RemoteProtocolError as exc:
        session.reject(exc.message)
        return
    except CoderAgentError:
        pass  # the peer left without a word: `session.close` makes it LOST
    scope.cancel()


async def _write_responses(stream: RpcStream[pb.CoordinateRequest], session: CoordinatorSession, wake: _Wake) -> None:
    """Responses to the peer, until the session has ended and all were sent."""
    while True:
        responses, ended = session.take(), session.ended
        try:
            for response in responses:
                await stream.send(response_to_proto(response))
        except CoderAgentError:
            return  # the peer has left
        if ended:
            return
        await wake.wait()

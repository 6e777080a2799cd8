"""The Tailnet service, which agents and users share: Coordinate, StreamDERPMaps, resume tokens."""

from __future__ import annotations

from uuid import UUID

from google.protobuf.message import Message

from coder_agent.coordination.interface import Role
from coder_agent.protocols.tailnet.convert import derp_map_to_proto
from coder_agent.protocols.tailnet.proto import tailnet_pb2 as pb
from coder_agent.rpc import Handlers, RpcStream, coordinate_handler, streaming, unary

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
            SERVICE + "Coordinate": coordinate_handler(
                self._server.coordinator, self._peer_id, self._role, name=self._name
            ),
            SERVICE + "StreamDERPMaps": streaming(pb.StreamDERPMapsRequest, self.stream_derp_maps),
            SERVICE + "RefreshResumeToken": unary(pb.RefreshResumeTokenRequest, self.refresh_resume_token),
            SERVICE + "PostTelemetry": unary(pb.TelemetryRequest, self.post_telemetry),
        }

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

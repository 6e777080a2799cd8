"""The Agent service: the manifest, and what agents report. Stock agents redial when one of these fails."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID, uuid5

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from coder_agent.base.path_rules import DirectRule
from coder_agent.hooks.events import WorkspaceConnection
from coder_agent.protocols.tailnet.convert import derp_map_to_proto
from coder_agent.protocols.tailnet.proto import agent_pb2 as pb
from coder_agent.rpc import Handlers, RpcError, unary

from ..deployment import Deployment
from ..path_rules import rules_for
from ..store import agents as store
from ..store.apps import MAX_APPS, set_health
from ..store.schema import Agent
from ..store.workspaces import touch_workspace
from .apps import app_to_proto, port_proxy_uri

logger = logging.getLogger("coder_agent.server")

SERVICE = "/coder.agent.v2.Agent/"
STATS_INTERVAL_SECONDS = 30
"""How often an agent reports traffic; zero would make stock agents spin. Source: coder agent/stats.go."""
MONITORING_POINTS = 20
MONITORING_SECONDS = 10
"""Stock agents crash without these two numbers. Source: coder agent/proto/resourcesmonitor."""
MAX_TEXT = 4096
"""Characters kept of anything an agent says about itself."""
MAX_LOG_LINES = 5000
"""Lines of one BatchCreateLogs call."""


class AgentService:
    """Answers one agent. What it reports goes into its own row and nowhere else."""

    def __init__(self, server: Deployment, agent: Agent) -> None:
        self._server = server
        self._agent = agent

    def handlers(self) -> Handlers:
        """RPC paths and what answers them; everything else is answered "unimplemented", which agents tolerate."""
        return {
            SERVICE + "GetManifest": unary(pb.GetManifestRequest, self.get_manifest),
            SERVICE + "GetServiceBanner": unary(pb.GetServiceBannerRequest, self.get_service_banner),
            SERVICE + "GetAnnouncementBanners": unary(pb.GetAnnouncementBannersRequest, self.get_banners),
            SERVICE + "UpdateStartup": unary(pb.UpdateStartupRequest, self.update_startup),
            SERVICE + "UpdateLifecycle": unary(pb.UpdateLifecycleRequest, self.update_lifecycle),
            SERVICE + "UpdateStats": unary(pb.UpdateStatsRequest, self.update_stats),
            SERVICE + "BatchUpdateAppHealths": unary(pb.BatchUpdateAppHealthRequest, self.update_app_healths),
            SERVICE + "BatchUpdateMetadata": unary(pb.BatchUpdateMetadataRequest, self.update_metadata),
            SERVICE + "BatchCreateLogs": unary(pb.BatchCreateLogsRequest, self.create_logs),
            SERVICE + "ScriptCompleted": unary(pb.WorkspaceAgentScriptCompletedRequest, self.script_completed),
            SERVICE + "GetResourcesMonitoringConfiguration": unary(
                pb.GetResourcesMonitoringConfigurationRequest, self.get_monitoring
            ),
            SERVICE + "PushResourcesMonitoringUsage": unary(
                pb.PushResourcesMonitoringUsageRequest, self.push_monitoring
            ),
            SERVICE + "ReportConnection": unary(pb.ReportConnectionRequest, self.report_connection),
        }

    async def get_manifest(self, request: pb.GetManifestRequest) -> Message:
        """Who the agent is, how it shall connect, what it offers. No scripts or metadata: READY follows at once."""
        async with self._server.database.read() as session:
            agent = await store.find_agent(session, self._agent.id) or self._agent  # its apps may have changed
        workspace = agent.workspace
        rules = rules_for(self._server.options, workspace)
        return pb.Manifest(
            agent_id=self._agent.id.bytes,
            agent_name=self._agent.name,
            owner_username=workspace.owner.username,
            workspace_id=workspace.id.bytes,
            workspace_name=workspace.name,
            directory=self._agent.directory,
            disable_direct_connections=rules.direct is DirectRule.NEVER,
            derp_force_websockets=self._server.options.relay.force_websockets,
            derp_map=derp_map_to_proto(self._server.derp_map.current),
            apps=[app_to_proto(app, agent) for app in agent.apps],
            vs_code_port_proxy_uri=port_proxy_uri(self._server.options, self._server.access_url, agent),
        )

    async def get_service_banner(self, request: pb.GetServiceBannerRequest) -> Message:
        """None (older agents ask so)."""
        return pb.ServiceBanner()

    async def get_banners(self, request: pb.GetAnnouncementBannersRequest) -> Message:
        """None."""
        return pb.GetAnnouncementBannersResponse()

    async def update_startup(self, request: pb.UpdateStartupRequest) -> Message:
        """Version and home directory, for users to see."""
        startup = request.startup
        names = [pb.Startup.Subsystem.Name(s).lower() for s in startup.subsystems if s in pb.Startup.Subsystem.values()]
        async with self._server.database.write() as session:
            await store.record_startup(
                session, self._agent.id, startup.version[:MAX_TEXT], startup.expanded_directory[:MAX_TEXT], names
            )
        self._server.live.agent_changed(self._agent.id)
        return startup

    async def update_lifecycle(self, request: pb.UpdateLifecycleRequest) -> Message:
        """A state change; the last one is kept, for agents do not repeat it after a reconnect."""
        lifecycle = request.lifecycle
        if lifecycle.state not in pb.Lifecycle.State.values() or lifecycle.state == pb.Lifecycle.STATE_UNSPECIFIED:
            raise RpcError(f"unknown lifecycle state: {lifecycle.state}")
        state = pb.Lifecycle.State.Name(lifecycle.state).lower()
        when = self._moment(lifecycle.changed_at if lifecycle.HasField("changed_at") else None)
        async with self._server.database.write() as session:
            await store.record_lifecycle(session, self._agent.id, state, when)
        self._server.live.agent_changed(self._agent.id)
        return lifecycle

    async def update_stats(self, request: pb.UpdateStatsRequest) -> Message:
        """Traffic counts: they tell that the workspace is in use."""
        if request.stats.connection_count > 0:
            async with self._server.database.write() as session:
                await touch_workspace(session, self._agent.workspace_id, self._server.clock())
        reply = pb.UpdateStatsResponse()
        reply.report_interval.FromSeconds(STATS_INTERVAL_SECONDS)
        return reply

    async def update_app_healths(self, request: pb.BatchUpdateAppHealthRequest) -> Message:
        """What the agent found out about its apps."""
        known = pb.AppHealth.values()
        health = {
            UUID(bytes=one.id): pb.AppHealth.Name(one.health).lower()
            for one in request.updates[:MAX_APPS]
            if len(one.id) == 16 and one.health in known and one.health != pb.APP_HEALTH_UNSPECIFIED
        }
        if health:
            async with self._server.database.write() as session:
                await set_health(session, self._agent.id, health)
            self._server.live.agent_changed(self._agent.id)
        return pb.BatchUpdateAppHealthResponse()

    async def update_metadata(self, request: pb.BatchUpdateMetadataRequest) -> Message:
        """Manifests ask for no metadata; what comes unasked is not kept."""
        return pb.BatchUpdateMetadataResponse()

    async def create_logs(self, request: pb.BatchCreateLogsRequest) -> Message:
        """Lines of start-up scripts."""
        if len(request.log_source_id) != 16:
            raise RpcError("log_source_id is not a UUID")
        lines = [
            store.LogLine(self._moment(log.created_at), _level(log.level), log.output.replace("\0", ""))
            for log in request.logs[:MAX_LOG_LINES]
        ]
        async with self._server.database.write() as session:
            full = await store.add_logs(session, self._agent.id, UUID(bytes=request.log_source_id), lines)
        return pb.BatchCreateLogsResponse(log_limit_exceeded=full)

    async def script_completed(self, request: pb.WorkspaceAgentScriptCompletedRequest) -> Message:
        """Timing of a script: acknowledged, not kept."""
        return pb.WorkspaceAgentScriptCompletedResponse()

    async def get_monitoring(self, request: pb.GetResourcesMonitoringConfigurationRequest) -> Message:
        """Memory and volumes are not watched; the two numbers must be there all the same."""
        config = pb.GetResourcesMonitoringConfigurationResponse.Config(
            num_datapoints=MONITORING_POINTS, collection_interval_seconds=MONITORING_SECONDS
        )
        return pb.GetResourcesMonitoringConfigurationResponse(config=config)

    async def push_monitoring(self, request: pb.PushResourcesMonitoringUsageRequest) -> Message:
        """Acknowledged, not kept."""
        return pb.PushResourcesMonitoringUsageResponse()

    async def report_connection(self, request: pb.ReportConnectionRequest) -> Message:
        """Somebody connected or disconnected inside the workspace: for the connection log; and it is in use."""
        connection = request.connection
        known = connection.type in pb.Connection.Type.values() and len(connection.id) == 16
        if not known:
            raise RpcError("a connection needs an id of 16 bytes and a known type")
        opened = connection.action == pb.Connection.CONNECT
        self._server.emit(
            WorkspaceConnection(
                id=uuid5(self._agent.id, connection.id.hex()),  # an agent must not end what is not its own
                opened=opened,
                kind=pb.Connection.Type.Name(connection.type).lower(),
                workspace_id=self._agent.workspace_id,
                agent_name=self._agent.name,
                ip=connection.ip[:64],
                status=None if opened else connection.status_code,
                reason=connection.reason[:256],
            )
        )
        if opened:
            async with self._server.database.write() as session:
                await touch_workspace(session, self._agent.workspace_id, self._server.clock())
        return Empty()

    def _moment(self, stamp: Timestamp | None) -> datetime:
        """When the agent says it happened; now, if it says nothing sensible."""
        try:
            if stamp is not None and stamp.seconds > 0:
                return stamp.ToDatetime(UTC)
        except (ValueError, OverflowError):
            pass
        return self._server.clock()


def _level(level: int) -> str:
    known = level in pb.Log.Level.values() and level != pb.Log.LEVEL_UNSPECIFIED
    return pb.Log.Level.Name(pb.Log.Level.ValueType(level)).lower() if known else "info"

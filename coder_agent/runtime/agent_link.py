"""What an agent tells its server, and asks it, beside coordination: manifest, start-up, life cycle, statistics.

Source: coder/coder agent/agent.go, agent/proto/agent.proto.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar
from uuid import UUID

import anyio
from google.protobuf.message import Message

from ..base.derp_map import DerpMap
from ..protocols.tailnet.convert import derp_map_from_proto, uuid_from_proto
from ..protocols.tailnet.proto import agent_pb2 as pb
from .agent_startup import expand_directory, version_for_servers
from .app_health import AppCheck, AppHealthReporter, checks_of, looker
from .rpc import RpcConnection
from .rpc_stream import RpcError
from .start_scripts import Ending, Outcome, Script

log = logging.getLogger(__name__)

SERVICE = "/coder.agent.v2.Agent/"
CALL_TIMEOUT = 30.0
"""Seconds for one answer."""
BANNER_INTERVAL = 120.0
"""Seconds between two looks for announcement banners."""
MAX_LOG = 1 << 20
"""Characters of scripts' output that a server is told; a stock one keeps no more.
Source: coder coderd/database/dump.sql (max_logs_length)."""
MAX_UNSENT = 256
"""Messages about scripts that wait for a connection; older ones give way."""
_FALLBACK_STATS_INTERVAL = 300.0  # seconds, if a server leaves it unset


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who the agent is and how it shall behave. `directory` is a path of this machine, or ""."""

    agent_id: UUID
    workspace_id: UUID
    agent_name: str = ""
    workspace_name: str = ""
    owner_username: str = ""
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    disable_direct_connections: bool = False
    derp_force_websockets: bool = False
    derp_map: DerpMap = field(default_factory=DerpMap)
    app_checks: tuple[AppCheck, ...] = ()
    start_scripts: tuple[Script, ...] = ()

    @classmethod
    def from_proto(cls, message: pb.Manifest) -> Manifest:
        """From the wire. Raises RemoteProtocolError."""
        return cls(
            agent_id=uuid_from_proto(message.agent_id),
            workspace_id=uuid_from_proto(message.workspace_id),
            agent_name=message.agent_name,
            workspace_name=message.workspace_name,
            owner_username=message.owner_username,
            directory=expand_directory(message.directory),
            environment=dict(message.environment_variables),
            disable_direct_connections=message.disable_direct_connections,
            derp_force_websockets=message.derp_force_websockets,
            derp_map=derp_map_from_proto(message.derp_map),
            app_checks=checks_of(message.apps),
            start_scripts=tuple(_script(one) for one in message.scripts if one.run_on_start),
        )


@dataclass(frozen=True, slots=True)
class AgentStats:
    """Traffic since the last report. Units: milliseconds, packets, bytes. A negative latency = nobody is connected.
    Sessions are those that are open."""

    NOBODY: ClassVar[float] = -0.001

    connections_by_proto: Mapping[str, int] = field(default_factory=dict)
    connection_count: int = 0
    median_latency_ms: float = NOBODY
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    ssh_sessions: int = 0
    terminal_sessions: int = 0


class LifecycleState(IntEnum):
    """The life of an agent; it only moves forward. The numbers are those of the wire."""

    STARTING = 2
    START_TIMEOUT = 3
    START_ERROR = 4
    READY = 5
    SHUTTING_DOWN = 6
    OFF = 9


class AgentReporter:
    """An agent's reports. Lives as long as the agent: what was not delivered is repeated on the next connection."""

    def __init__(
        self,
        version: str,
        stats: Callable[[], AgentStats | None] | None = None,
        apps: AppHealthReporter | None = None,
    ) -> None:
        self._version = version
        self._apps = apps or AppHealthReporter(looker())
        self._stats = stats
        self._unsent: deque[tuple[LifecycleState, float]] = deque()
        self._reached: LifecycleState | None = None
        self._changed = anyio.Event()
        self._delivered = anyio.Event()
        self._outbox: deque[tuple[str, Message, type[Message]]] = deque(maxlen=MAX_UNSENT)
        self._spoken = anyio.Event()
        self._log_room = MAX_LOG

    def set_state(self, state: LifecycleState) -> None:
        """Report `state` from now on. Steps back are ignored."""
        if self._reached is not None and state <= self._reached:
            return
        self._reached = state
        self._unsent.append((state, time.time()))
        self._changed.set()

    async def wait_delivered(self) -> None:
        """Return when every state has been delivered; `report_states` must be running."""
        while self._unsent:
            await self._delivered.wait()

    async def get_manifest(self, connection: RpcConnection) -> Manifest:
        """Ask who we are. Raises RpcError, RemoteProtocolError, TransportError."""
        message = await connection.unary(
            f"{SERVICE}GetManifest", pb.GetManifestRequest(), pb.Manifest, timeout=CALL_TIMEOUT
        )
        return Manifest.from_proto(message)

    async def started(self, connection: RpcConnection, manifest: Manifest) -> None:
        """Tell our version, and (the first time) that we are up."""
        startup = pb.Startup(version=version_for_servers(self._version), expanded_directory=manifest.directory)
        await connection.unary(
            f"{SERVICE}UpdateStartup", pb.UpdateStartupRequest(startup=startup), pb.Startup, timeout=CALL_TIMEOUT
        )
        self.set_state(LifecycleState.STARTING)
        if not manifest.start_scripts:
            self.set_state(LifecycleState.READY)

    async def report_states(self, connection: RpcConnection) -> None:
        """Deliver states in order, for as long as the connection lives."""
        while True:
            self._changed = anyio.Event()
            while self._unsent:
                state, changed_at = self._unsent[0]
                lifecycle = pb.Lifecycle(state=pb.Lifecycle.State.ValueType(state))
                lifecycle.changed_at.FromMicroseconds(round(changed_at * 1e6))
                await connection.unary(
                    f"{SERVICE}UpdateLifecycle",
                    pb.UpdateLifecycleRequest(lifecycle=lifecycle),
                    pb.Lifecycle,
                    timeout=CALL_TIMEOUT,
                )
                self._unsent.popleft()
            self._delivered.set()
            self._delivered = anyio.Event()
            await self._changed.wait()

    async def report_stats(self, connection: RpcConnection) -> None:
        """Statistics: a question without a report first, whose answer says how often, then one whenever there was
        traffic."""
        interval = await self._send_stats(connection, None)
        while True:
            await anyio.sleep(interval)
            stats = self._stats() if self._stats is not None else None
            if stats is not None:
                interval = await self._send_stats(connection, _stats_to_proto(stats))

    async def _send_stats(self, connection: RpcConnection, stats: pb.Stats | None) -> float:
        answer = await connection.unary(
            f"{SERVICE}UpdateStats", pb.UpdateStatsRequest(stats=stats), pb.UpdateStatsResponse, timeout=CALL_TIMEOUT
        )
        seconds = answer.report_interval.seconds + answer.report_interval.nanos / 1e9
        return seconds if seconds > 0 else _FALLBACK_STATS_INTERVAL

    # ------------------------------------------------------------ scripts (start_scripts.ScriptSink)

    def script_said(self, source: bytes, lines: Sequence[str], *, error: bool) -> None:
        """Lines for the workspace's log at the server; what is too much for it is left out."""
        size = sum(len(line) + 1 for line in lines)
        if size > self._log_room:
            return
        self._log_room -= size
        request = pb.BatchCreateLogsRequest(log_source_id=source)
        for line in lines:
            entry = request.logs.add(output=line, level=pb.Log.ERROR if error else pb.Log.INFO)
            entry.created_at.GetCurrentTime()
        self._tell("BatchCreateLogs", request, pb.BatchCreateLogsResponse)

    def script_ended(self, ending: Ending) -> None:
        """How long a script took, and what became of it."""
        timing = pb.Timing(
            script_id=ending.script.id,
            exit_code=ending.exit_code,
            stage=pb.Timing.START,
            status=pb.Timing.Status.ValueType(ending.outcome),
        )
        timing.start.FromMicroseconds(round(ending.began * 1e6))
        timing.end.FromMicroseconds(round(ending.ended * 1e6))
        request = pb.WorkspaceAgentScriptCompletedRequest(timing=timing)
        self._tell("ScriptCompleted", request, pb.WorkspaceAgentScriptCompletedResponse)

    def scripts_ended(self, endings: Sequence[Ending]) -> None:
        """All start scripts are over: the workspace is ready, or it is not."""
        outcomes = {ending.outcome for ending in endings}
        if Outcome.FAILED in outcomes:
            self.set_state(LifecycleState.START_ERROR)
        elif Outcome.TIMED_OUT in outcomes:
            self.set_state(LifecycleState.START_TIMEOUT)
        else:
            self.set_state(LifecycleState.READY)

    def _tell(self, method: str, request: Message, answer: type[Message]) -> None:
        self._outbox.append((method, request, answer))
        self._spoken.set()

    async def report_scripts(self, connection: RpcConnection) -> None:
        """Deliver what scripts said and how they ended, in order, for as long as the connection lives."""
        while True:
            self._spoken = anyio.Event()
            while self._outbox:
                method, request, answer = self._outbox[0]
                try:
                    await connection.unary(f"{SERVICE}{method}", request, answer, timeout=CALL_TIMEOUT)
                except RpcError as exc:  # an older server, or one that has heard enough
                    log.debug("the server does not take %s: %s", method, exc)
                if self._outbox and self._outbox[0][1] is request:
                    self._outbox.popleft()
            await self._spoken.wait()

    async def report_app_health(self, connection: RpcConnection, manifest: Manifest) -> None:
        """Look at the apps that want it, and say what has changed."""
        await self._apps.run(connection, manifest.app_checks)

    async def watch_banners(self, connection: RpcConnection) -> None:
        """Ask for banners like every agent; a server may take the question as a sign of life. We show none."""
        while True:
            try:
                await connection.unary(
                    f"{SERVICE}GetAnnouncementBanners",
                    pb.GetAnnouncementBannersRequest(),
                    pb.GetAnnouncementBannersResponse,
                    timeout=CALL_TIMEOUT,
                )
            except RpcError as exc:
                if not exc.is_unimplemented:
                    raise
                await anyio.sleep_forever()
            await anyio.sleep(BANNER_INTERVAL)


def _script(message: pb.WorkspaceAgentScript) -> Script:
    timeout = message.timeout.seconds + message.timeout.nanos / 1e9
    name = message.display_name or "without a name"
    return Script(message.id, message.log_source_id, name, message.script, timeout)


def _stats_to_proto(stats: AgentStats) -> pb.Stats:
    return pb.Stats(
        connections_by_proto=dict(stats.connections_by_proto),
        connection_count=stats.connection_count,
        connection_median_latency_ms=stats.median_latency_ms,
        rx_packets=stats.rx_packets,
        rx_bytes=stats.rx_bytes,
        tx_packets=stats.tx_packets,
        tx_bytes=stats.tx_bytes,
        session_count_ssh=stats.ssh_sessions,
        session_count_reconnecting_pty=stats.terminal_sessions,
    )

"""The connection of an agent or a client to its coder server, kept for as long as the program runs.

WebSocket → yamux → dRPC. While it is up it coordinates and follows the relay map; when it breaks, everybody keeps
talking and it is made again. The node runtime hears about everything through a ControlSink.

Source: coder/coder tailnet/controllers.go, codersdk/workspacesdk/dialer.go, agent/agent.go.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode
from uuid import UUID

import anyio

from ..base.coordinate import UpdateKind
from ..base.derp_map import DerpMap
from ..base.node import Node
from ..errors import (
    ApiError,
    CoderAgentError,
    ConfigError,
    CoordinationError,
    RemoteProtocolError,
    TransportBroken,
    Unauthenticated,
)
from ..hooks.egress import OPEN
from ..hooks.interfaces import DialOptions
from ..protocols.tailnet.convert import derp_map_from_proto
from ..protocols.tailnet.proto import tailnet_pb2 as pb
from ..protocols.yamux import YamuxSettings
from .agent_link import CALL_TIMEOUT, AgentReporter, AgentStats, LifecycleState, Manifest
from .app_health import AppHealthReporter, looker
from .backoff import Backoff
from .coordination_stream import CoordinationStream, Wishes
from .dial import CertificateNotTrusted
from .http import TOKEN_HEADER, NotACoderServer
from .link_watch import is_ours
from .race import race
from .rpc import RpcConnection
from .websocket import WebSocketStream, open_websocket

log = logging.getLogger(__name__)

SERVICE = "/coder.tailnet.v2.Tailnet/"
FINAL_STATUS = (400, 404, 409, 500)
"""Refusals that a client takes as final on its first attempt (dialer.go); later they may be a server that restarts."""
KEEPALIVE = YamuxSettings(ping_interval=15.0, ping_timeout=15.0)
"""A dead connection is noticed within 30 s; 15 s keeps the mappings of common NATs and proxies alive."""
BACKOFF_CEILING = 10.0
"""Seconds between two attempts at most; they begin with 0.1 (agents) or 0.05 (clients)."""
STABLE_AFTER = 10.0
"""Seconds a connection must have lived for the next one to be tried at once."""
GOODBYE_TIMEOUT = {"client": 1.0, "agent": 5.0}
"""Seconds for the server to take our leave, as stock programs allow."""
LINK_PATIENCE = 3.0
"""Seconds for the server to answer after the network under us changed (as tailscale's relay client, magicsock/derp.go
maybeCloseDERPsOnRebind)."""
_REFRESH_FALLBACK = 1800.0  # seconds; for a server that names no interval (controllers.go)


class ControlSink(Protocol):
    """What the node runtime does with news. Calls are synchronous and quick."""

    def on_derp_map(self, derp_map: DerpMap) -> None:
        """A new relay map."""
        ...

    def on_peer_update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        """Something happened to a peer; `node` comes with NODE."""
        ...

    def on_linked(self) -> None:
        """The connection is up; everything we want is being told to the server."""
        ...

    def on_link_lost(self, reason: str) -> None:
        """The connection is gone: peers are lost, but packets keep flowing. It is being made again."""
        ...

    def on_manifest(self, manifest: Manifest) -> None:
        """Agents: who we are; before anything else, once per connection."""
        ...


@dataclass(frozen=True, slots=True)
class AgentMode:
    """We are a workspace's agent; `version` is shown to users. `stats` is asked when a report is due."""

    version: str = ""
    stats: Callable[[], AgentStats | None] | None = None


@dataclass(frozen=True, slots=True)
class ClientMode:
    """We are a user's client for one agent."""

    agent_id: UUID


class ControlLink:
    """Keeps the control connection. `run` it in a task; the other methods may be called at any time, from its loop."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        mode: AgentMode | ClientMode,
        sink: ControlSink,
        dial: DialOptions | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._mode = mode
        self._sink = sink
        self._dial = dial
        self._wishes = Wishes()
        self._resume_token = ""
        self._version = "2.10" if isinstance(mode, AgentMode) else "2.0"
        self._reporter = _reporter(mode, dial) if isinstance(mode, AgentMode) else None
        self._backoff = Backoff(0.1 if self._reporter else 0.05, BACKOFF_CEILING)
        self._leaving = anyio.Event()
        self._stale = anyio.Event()
        self._doubted = anyio.Event()
        self._hurry = anyio.Event()
        self._stream: WebSocketStream | None = None
        self._finished = anyio.Event()
        self._ever_linked = False
        self._linked = False
        self._last_problem = ""

    # ------------------------------------------------------------ wishes

    def update_self(self, node: Node) -> None:
        """Publish our node; without a home relay it is kept back."""
        self._wishes.set_node(node)

    def add_tunnel(self, peer: UUID) -> None:
        """Ask for a tunnel, now and after every reconnect."""
        self._wishes.set_tunnel(peer, True)

    def remove_tunnel(self, peer: UUID) -> None:
        """Give a tunnel up."""
        self._wishes.set_tunnel(peer, False)

    def ready_for_handshake(self, peer: UUID) -> None:
        """Agents: `peer`'s node is in place, its handshake will be answered."""
        self._wishes.acknowledge(peer)

    @property
    def reporter(self) -> AgentReporter | None:
        """Agents: who tells the server about scripts."""
        return self._reporter

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Connect and stay connected until `aclose_gracefully` (returns) or cancelled (says goodbye first, too).

        Raises, only as long as no connection ever worked, what no retry can mend: Unauthenticated, NotACoderServer,
        CertificateNotTrusted, ConfigError; for clients also ApiError.
        """
        error: CoderAgentError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope(shield=True) as scope:
                    tasks.start_soon(self._leave_when_cancelled, scope)
                    try:
                        await self._loop()
                    except CoderAgentError as exc:
                        error = exc
                self._finished.set()
                tasks.cancel_scope.cancel()
        finally:
            self._finished.set()
        if error is not None:
            raise error

    def reconnect(self) -> None:
        """The connection may be dead without a sign (the machine slept): make a new one now."""
        self._stale.set()

    def link_changed(self) -> None:
        """The network under us changed: a connection from an address that we no longer have is made anew at once, and
        so is one that does not answer soon; a pause between two attempts ends."""
        self._backoff.reset()
        self._hurry.set()
        if self._stream is None or not is_ours(self._stream.local_address):
            self._stale.set()
        else:
            self._doubted.set()

    async def aclose_gracefully(self) -> None:
        """Tell the server that we leave for good; returns when `run` has ended (bound it with a time-out)."""
        self._leave()
        await self._finished.wait()

    def _leave(self) -> None:
        self._wishes.leave()
        self._leaving.set()
        if self._reporter is not None:
            self._reporter.set_state(LifecycleState.SHUTTING_DOWN)

    async def _leave_when_cancelled(self, scope: anyio.CancelScope) -> None:
        """The connection lives in a shielded scope, so that a cancelled program still says goodbye, within a limit."""
        try:
            await anyio.sleep_forever()
        finally:
            if not self._finished.is_set():
                self._leave()
                scope.deadline = anyio.current_time() + GOODBYE_TIMEOUT["agent" if self._reporter else "client"]

    async def _loop(self) -> None:
        while not self._leaving.is_set():
            began = anyio.current_time()
            try:
                await self._connect()
            except CoderAgentError as exc:
                self._lost(exc.message)
                if self._adapt(exc):
                    continue
                if not self._ever_linked and self._is_final(exc):
                    raise self._explained(exc) from exc
                self._report_problem(exc)
            else:
                self._linked = False  # on purpose: nobody needs to hear of it
            if anyio.current_time() - began > STABLE_AFTER:
                self._backoff.reset()
            self._hurry = anyio.Event()
            with anyio.move_on_after(self._backoff.next()):
                await race(self._leaving.wait, self._hurry.wait)

    def _is_final(self, error: CoderAgentError) -> bool:
        if isinstance(error, ApiError):
            return self._reporter is None and error.status in FINAL_STATUS
        return isinstance(error, Unauthenticated | CertificateNotTrusted | NotACoderServer | ConfigError)

    def _explained(self, error: CoderAgentError) -> CoderAgentError:
        """A refused agent is somebody at another machine than the one who may sign in."""
        if self._reporter is None or not isinstance(error, Unauthenticated):
            return error
        return Unauthenticated(
            f"{self._url} does not accept this agent token: {error.message}",
            hint="give the one that `coder create` printed in CODER_AGENT_TOKEN; a removed workspace's works no more",
        )

    def _adapt(self, error: CoderAgentError) -> bool:
        """True: the server named something that the next attempt does differently."""
        named = dict(error.validations) if isinstance(error, ApiError) else {}
        if self._resume_token and ("resume_token" in named or isinstance(error, Unauthenticated)):
            self._resume_token = ""
            return True
        if "version" in named and self._version != "2.0":
            self._version = _older_version(self._version, named["version"])  # what is newer degrades call by call
            return True
        return False

    def _report_problem(self, error: CoderAgentError) -> None:
        """Once per kind of problem, not once per attempt."""
        if error.message != self._last_problem and not self._leaving.is_set():
            self._last_problem = error.message
            log.warning("no connection to %s: %s; trying again%s", self._url, error.message, _hint(error))

    def _lost(self, reason: str) -> None:
        if self._linked:
            self._linked = False
            self._sink.on_link_lost(reason)

    # ------------------------------------------------------------ one connection

    def _address(self) -> str:
        query = {"version": self._version}
        if isinstance(self._mode, ClientMode):
            if self._resume_token:
                query["resume_token"] = self._resume_token
            return f"{self._url}/api/v2/workspaceagents/{self._mode.agent_id}/coordinate?{urlencode(query)}"
        return f"{self._url}/api/v2/workspaceagents/me/rpc?{urlencode(query | {'role': 'agent'})}"

    async def _connect(self) -> None:
        """One connection from beginning to end. Returns after a goodbye, raises CoderAgentError otherwise."""
        stream: WebSocketStream | None = None
        stale = self._stale = anyio.Event()

        async def dial() -> None:
            nonlocal stream
            headers = {TOKEN_HEADER: self._token}
            stream = await open_websocket(self._address(), headers=headers, options=self._dial)

        await race(dial, self._leaving.wait, stale.wait)
        if stream is None:
            return
        await self._converse(stream, stale)

    async def _converse(self, stream: WebSocketStream, stale: anyio.Event) -> None:
        alive = anyio.Event()

        def note_alive(_round_trip: float) -> None:
            nonlocal alive
            alive.set()
            alive = anyio.Event()

        async def watch_doubts() -> None:
            """Ends when the server does not answer after the network changed."""
            while True:
                await self._doubted.wait()
                self._doubted = anyio.Event()
                connection.ping()
                with anyio.move_on_after(LINK_PATIENCE) as patience:
                    await alive.wait()
                if patience.cancelled_caught:
                    await stream.abort()
                    raise TransportBroken("the server has not answered since the network changed")

        async def renew() -> None:
            await stale.wait()
            await stream.abort()  # a goodbye would only wait for an answer that does not come
            raise TransportBroken("this machine slept or has another address: connecting again")

        self._stream, self._doubted = stream, anyio.Event()
        try:
            async with RpcConnection(stream, client=True, settings=KEEPALIVE, on_alive=note_alive) as connection:
                await race(lambda: _broken(connection), lambda: self._work(connection), watch_doubts, renew)
        finally:
            self._stream = None

    async def _work(self, connection: RpcConnection) -> None:
        reporter = self._reporter
        if reporter is None:
            await race(
                lambda: self._coordinate(connection),
                lambda: self._follow_derp_maps(connection),
                lambda: self._keep_resume_token(connection),
            )
            return
        manifest = await reporter.get_manifest(connection)
        self._sink.on_manifest(manifest)
        await reporter.started(connection, manifest)
        await race(
            lambda: self._coordinate(connection),
            lambda: self._follow_derp_maps(connection),
            lambda: reporter.report_states(connection),
            lambda: reporter.report_stats(connection),
            lambda: reporter.watch_banners(connection),
            lambda: reporter.report_app_health(connection, manifest),
            lambda: reporter.report_scripts(connection),
        )

    async def _coordinate(self, connection: RpcConnection) -> None:
        """Returns after a goodbye."""
        patience = GOODBYE_TIMEOUT["agent" if self._reporter else "client"]
        async with connection.stream(f"{SERVICE}Coordinate", pb.CoordinateResponse) as stream:
            coordination = CoordinationStream(stream, self._wishes)
            self._linked = self._ever_linked = True
            self._last_problem = ""
            self._sink.on_linked()

            async def listen() -> None:
                while (updates := await coordination.updates()) is not None:
                    for update in updates:
                        self._sink.on_peer_update(update.id, update.kind, update.node, update.reason)

            async def tell() -> None:
                await coordination.tell()
                await anyio.sleep(patience)  # the server ends the stream when it has taken note

            await race(listen, tell)
        if self._reporter is not None:
            self._reporter.set_state(LifecycleState.OFF)
            with anyio.move_on_after(patience):
                await self._reporter.wait_delivered()

    async def _follow_derp_maps(self, connection: RpcConnection) -> None:
        async with connection.stream(f"{SERVICE}StreamDERPMaps", pb.DERPMap) as stream:
            await stream.send(pb.StreamDERPMapsRequest())
            await stream.close_send()
            async for message in stream:
                self._sink.on_derp_map(derp_map_from_proto(message))
        raise TransportBroken("the server ended the relay map")

    async def _keep_resume_token(self, connection: RpcConnection) -> None:
        """Keeps our peer id, and so our place in the coordinator, across reconnects."""
        while True:
            interval = await self._refresh_resume_token(connection)
            # Without one the connection works as well.
            await (anyio.sleep_forever() if interval is None else anyio.sleep(interval))

    async def _refresh_resume_token(self, connection: RpcConnection) -> float | None:
        """Ask for a token; seconds until the next one, None if there is none to be had on this connection."""
        request = pb.RefreshResumeTokenRequest()
        answer_type = pb.RefreshResumeTokenResponse
        try:
            answer = await connection.unary(f"{SERVICE}RefreshResumeToken", request, answer_type, timeout=CALL_TIMEOUT)
        except (CoordinationError, RemoteProtocolError) as exc:  # RpcError is one
            log.debug("no resume token: %s", exc.message)
            return None
        self._resume_token = answer.token
        seconds = answer.refresh_in.seconds + answer.refresh_in.nanos / 1e9
        return seconds if seconds > 0 else _REFRESH_FALLBACK


def _older_version(refused: str, reason: str) -> str:
    """The version that a server has, as it says when it refuses a newer one; the oldest if it does not say.
    Source: coder apiversion/apiversion.go (Validate)."""
    said = re.search(r"\bat version 2\.(\d{1,4})\b", reason)
    minor = int(said[1]) if said is not None else 0
    return f"2.{minor}" if minor < int(refused.removeprefix("2.")) else "2.0"


def _reporter(mode: AgentMode, dial: DialOptions | None) -> AgentReporter:
    apps = AppHealthReporter(looker(dial.egress if dial is not None else OPEN))
    return AgentReporter(mode.version, mode.stats, apps)


async def _broken(connection: RpcConnection) -> None:
    raise await connection.wait_closed()


def _hint(error: CoderAgentError) -> str:
    return f" ({error.hint})" if error.hint else ""

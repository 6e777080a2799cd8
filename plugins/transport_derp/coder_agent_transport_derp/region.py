"""One relay region: its connection while it is wanted, and what waits for it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc

from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpNode, DerpRegion
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import DerpPath
from coder_agent.errors import CoderAgentError, ConfigError, TransportBroken, TransportClosed
from coder_agent.hooks.events import RelayChanged
from coder_agent.hooks.interfaces import TransportContext
from coder_agent.hooks.server_tailnet import LocalRelay
from coder_agent.http import headers_of, merge_headers
from coder_agent.protocols.derp.client import ClientEvent, DerpClient, HealthChanged, PeerGone, ServerRestarting
from coder_agent.protocols.derp.stream import Arena

from .carrier import Carrier, NoCarrier, UpgradeCarrier, UpgradeRefused, WebSocketCarrier
from .connection import RelayConnection
from .dial import connect, endpoint_of
from .tls import Check, trust

log = logging.getLogger(__name__)

LOGIN_BUDGET = 10.0
"""Seconds for TCP, TLS, HTTP and login together (derphttp_client.go, connect)."""
STABLE_AFTER = 10.0
"""A connection that lived this many seconds ends the back-off: one that dies at once must not be redialled at once."""
BACKOFF_STEP = 0.01
BACKOFF_CAP = 5.0
"""Pause after the n-th failure: n² · 10 ms, at most 5 s, times 0.5 to 1.5 (util/backoff)."""
QUEUE_BYTES = 64 << 10
QUEUE_BURST_BYTES = 8 << 10
"""While there is no connection yet: bursts up to 8 KiB (disco, handshakes, first segments) wait, 64 KiB of them."""

WARM_FOR = 10.0
"""Seconds for which one `keep_warm` makes a region that is not home worth redialling: three heartbeats of magicsock."""

RESTART_MAX = 10.0
"""Seconds: a relay that asks us to stay away for longer is not obeyed."""


@dataclass(slots=True)
class Shared:
    """What all regions of one transport have in common."""

    context: TransportContext
    tasks: anyio.abc.TaskGroup
    arena: Arena = field(default_factory=Arena)
    counters: Counter[str] = field(default_factory=Counter)
    websocket_reasons: dict[int, str] = field(default_factory=dict)
    seen_at: Callable[[NodePublic, int], None] = lambda key, region: None
    gone_from: Callable[[PeerGone, int], None] = lambda gone, region: None
    writable: Callable[[], None] = lambda: None


class Region:
    """Dials when somebody sends or when it is home; redials with back-off; goes idle when nobody sends."""

    def __init__(self, definition: DerpRegion, shared: Shared) -> None:
        self.definition = definition
        self.id = definition.region_id
        self.home = False
        self.connection: RelayConnection | None = None
        """Set while logged in."""
        self._shared = shared
        self._dialling: RelayConnection | None = None
        self._queue: deque[tuple[Burst, NodePublic]] = deque()
        self._queued_bytes = 0
        self._scope: anyio.CancelScope | None = None
        self._announced: tuple[bool, str] | None = None
        self._paths: dict[NodePublic, DerpPath] = {}
        self._warm_until = float("-inf")
        self._attempt = anyio.CancelScope()  # the dialling that is going on
        self._hurry = anyio.Event()  # ends the pause between two attempts
        self._refused_because = ""  # why a WebSocket is being tried
        self._rest_until = float("-inf")  # a relay that restarts asked us to stay away

    # ------------------------------------------------------------ for the transport

    def send(self, burst: Burst, destination: NodePublic) -> bool:
        """Send now, or dial and remember. False: full."""
        connection = self.connection
        if connection is not None and connection.usable:
            return connection.send(burst, destination)
        self._enqueue(burst, destination)
        self.wake()
        return True

    def set_home(self, home: bool) -> None:
        """Is this our home region? A home is connected for ever."""
        self.home = home
        if self.connection is not None:
            self.connection.client.note_preferred(home)
            self.connection.flush()
        if home:
            self.wake()

    def keep_warm(self) -> None:
        """Somebody may send from one moment to the next: be connected, and count this as a use."""
        self._warm_until = asyncio.get_running_loop().time() + WARM_FOR
        self.wake()

    def reconnect(self, reason: str) -> None:
        """What is connected now may be dead without a sign."""
        for connection in (self.connection, self._dialling):
            if connection is not None:
                connection.close(TransportBroken(reason))
        if self._is_wanted:
            self.wake()

    def link_changed(self) -> None:
        """The network under us changed: doubt what is connected, begin every dial anew, wait no more."""
        if self.connection is not None:
            self.connection.link_changed()
        self._attempt.cancel()
        self._hurry.set()
        if self._is_wanted:
            self.wake()

    @property
    def _is_wanted(self) -> bool:
        """Is there a reason to dial, if we are not connected?"""
        return self.home or bool(self._queue) or asyncio.get_running_loop().time() < self._warm_until

    def wake(self) -> None:
        """Make sure that somebody is dialling."""
        if self._scope is None:
            self._scope = anyio.CancelScope()
            self._shared.tasks.start_soon(self._run, self._scope)

    def close(self, reason: str) -> None:
        """Forget the region: its definition changed or vanished, or we stop."""
        self._drop_queue("region-closed")
        if self._scope is not None:
            self._scope.cancel()
        for connection in (self.connection, self._dialling):
            if connection is not None:
                connection.close(TransportClosed(reason))
        self._down(reason)

    def tick(self, now: float, idle_after: float | None) -> None:
        """Close what is dead; and, if `idle_after` seconds are given, what nobody needs."""
        connection = self.connection
        if connection is None:
            return
        if now >= connection.client.deadline():
            connection.close(TransportBroken("the relay has been silent for too long"))
        elif connection.silent_at is not None and now >= connection.silent_at:
            connection.close(TransportBroken("the relay has not answered since the network changed"))
        elif idle_after is not None and not self.home and now - self._used_at(connection) >= idle_after:
            self._shared.counters["idle_closed"] += 1
            connection.close(TransportClosed("not used any more"))

    def _used_at(self, connection: RelayConnection) -> float:
        return max(connection.written_at, self._warm_until - WARM_FOR)

    # ------------------------------------------------------------ Listener, for the connection

    def packets(self, source: NodePublic, burst: Burst) -> None:
        """Packets from a peer: pass them on, and remember where the peer was heard."""
        path = self._paths.get(source)
        if path is None:
            if len(self._paths) >= 4096:  # a relay that invents sources must not fill our memory
                self._paths.clear()
            path = self._paths[source] = DerpPath(self.id, source)
            self._shared.seen_at(source, self.id)
        self._shared.counters["packets_received"] += burst.count
        self._shared.context.sink.on_burst(burst, path)

    def said(self, event: ClientEvent) -> None:
        """Whatever else the relay has to say."""
        match event:
            case PeerGone():
                self._paths.pop(event.peer, None)
                self._shared.gone_from(event, self.id)
            case HealthChanged():
                reason = f"the relay reports: {event.problem}" if event.problem else "healthy again"
                self._shared.context.emit(RelayChanged(self.id, True, reason))
            case ServerRestarting():
                self._leave(event)

    def _leave(self, notice: ServerRestarting) -> None:
        """The relay will restart: packets take other ways at once, and we come back when it asks us to, each client at
        another moment."""
        connection = self.connection
        self._announce(False, "the relay is about to restart")
        if connection is not None:
            pause = min(max(notice.reconnect_in, 0.0), RESTART_MAX) * random.uniform(0.5, 1.5)
            self._rest_until = asyncio.get_running_loop().time() + pause
            asyncio.get_running_loop().call_later(
                pause, connection.close, TransportBroken("the relay asked to connect anew")
            )

    def drained(self) -> None:
        """One wake-up of the connection is over."""
        self._shared.context.sink.on_drained()

    def writable(self) -> None:
        """The connection takes bulk again."""
        self._shared.writable()

    # ------------------------------------------------------------ the task

    async def _run(self, scope: anyio.CancelScope) -> None:
        failures = 0
        try:
            with scope:
                while self._is_wanted:
                    started = anyio.current_time()
                    reason = await self._live_once()
                    if reason is None:
                        continue  # try again at once, by WebSocket
                    failures = 1 if anyio.current_time() - started >= STABLE_AFTER else failures + 1
                    if not self.home and not isinstance(reason, TransportClosed):
                        self._drop_queue("dial-failed")
                    self._hurry = anyio.Event()
                    rest = max(self._rest_until - anyio.current_time(), 0.0)
                    with anyio.move_on_after(rest + backoff(failures)):
                        await self._hurry.wait()
                        failures = 0
        finally:
            self._scope = None

    async def _live_once(self) -> CoderAgentError | None:
        """Dial, log in, and wait for the end. The answer says why it ended; None = another way is worth a try."""
        tried_websocket = self._uses_websocket
        connection: RelayConnection | None = None
        try:
            with anyio.CancelScope() as self._attempt, anyio.fail_after(LOGIN_BUDGET):
                connection = await self._dial()
        except TimeoutError:
            return self._failed(TransportBroken(f"no login within {LOGIN_BUDGET:.0f} s"))
        except CoderAgentError as exc:
            if self._refused_because:  # neither way: begin again with the upgrade
                self._refused_because = ""
            elif isinstance(exc, UpgradeRefused) and not tried_websocket:
                self._refused_because = exc.message
                self._down(f"falling back to WebSocket: {exc.message}")
                return None
            return self._failed(exc)
        if connection is None:  # the network changed: what began in the old one may wait for nothing
            return None
        if self._refused_because:  # and a WebSocket passes: it is kept, for good
            self._shared.websocket_reasons[self.id] = self._refused_because
            self._refused_because = ""
        self._up(connection)
        try:
            await connection.lost.wait()
        finally:
            self.connection = None
            connection.close()
        assert connection.error is not None
        self._down(connection.error.message)
        return connection.error

    def _failed(self, error: CoderAgentError) -> CoderAgentError:
        self._shared.counters["dial_failures"] += 1
        self._announce(False, error.message)  # also if nobody expected it to be up: packets may take another way
        return error

    async def _dial(self) -> RelayConnection:
        """Log in at the first node that answers. Raises CoderAgentError."""
        local = self._shared.context.local_relay
        if local is not None and local.region == self.id:
            return await self._log_in_here(local)
        nodes = [node for node in self.definition.nodes if not node.stun_only]
        if not nodes:
            raise TransportBroken("the region has no relay nodes")
        last: CoderAgentError | None = None
        for node in nodes:
            patience = LOGIN_BUDGET if node is nodes[-1] else LOGIN_BUDGET / max(len(nodes), 3)
            try:
                with anyio.fail_after(patience):
                    return await self._log_in(node, ideal=self.definition.nodes[0])
            except (UpgradeRefused, ConfigError):
                raise
            except TimeoutError:
                last = TransportBroken(f"{node.host_name} accepts connections but lets nobody log in")
            except CoderAgentError as exc:
                last = exc
        assert last is not None
        raise last

    async def _log_in(self, node: DerpNode, ideal: DerpNode) -> RelayConnection:
        context = self._shared.context
        tls, check = (None, None) if node.force_http else trust(node, context.dial)
        carrier = await self._carrier(node, ideal)
        sock = await connect(node, context.dial)
        connection = self._made(carrier, check)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, sock=sock, ssl=tls, server_hostname=node.host_name if tls else None
            )
        except ssl.SSLCertVerificationError as exc:
            sock.close()
            raise TransportBroken(
                f"the certificate of {node.host_name} does not verify: {exc.verify_message}",
                hint="if the relay uses a private CA, name its file with ca_file",
            ) from exc
        except OSError as exc:  # ssl.SSLError is one
            sock.close()
            raise TransportBroken(f"no TLS with {node.host_name}: {exc.strerror or exc}") from exc
        return await self._logged_in(connection)

    async def _log_in_here(self, relay: LocalRelay) -> RelayConnection:
        """The relay is in this process. Raises TransportBroken."""
        connection = self._made(NoCarrier(), None)
        relay.connect(connection)
        return await self._logged_in(connection)

    def _made(self, carrier: Carrier, check: Check | None) -> RelayConnection:
        now = asyncio.get_running_loop().time()
        client = DerpClient(self._shared.context.node_key, rng=os.urandom, now=now, arena=self._shared.arena)
        client.note_preferred(self.home)
        self._dialling = RelayConnection(client, carrier, self, check)
        return self._dialling

    async def _logged_in(self, connection: RelayConnection) -> RelayConnection:
        try:
            await _first(connection.logged_in, connection.lost)
        except BaseException:
            connection.close()
            raise
        finally:
            self._dialling = None
        if connection.error is not None:
            raise connection.error
        return connection

    async def _carrier(self, node: DerpNode, ideal: DerpNode) -> Carrier:
        """Raises ConfigError for headers that cannot be sent."""
        own = {"Ideal-Node": ideal.name} if node is not ideal else {}
        headers = merge_headers(await headers_of(self._shared.context.dial), own)
        host = endpoint_of(node).host_header
        if self._uses_websocket:
            return WebSocketCarrier(host, headers, secure=not node.force_http)
        return UpgradeCarrier(host, headers)

    @property
    def _uses_websocket(self) -> bool:
        known = self._shared.context.force_websockets or self.id in self._shared.websocket_reasons
        return known or bool(self._refused_because)

    def _up(self, connection: RelayConnection) -> None:
        self.connection = connection
        self._shared.counters["connects"] += 1
        if self.home is not connection.client.home:
            self.set_home(self.home)
        self._announce(True, self._shared.websocket_reasons.get(self.id, ""))
        while self._queue and connection.usable:
            burst, destination = self._queue.popleft()
            self._queued_bytes -= burst.size_bytes
            connection.send(burst, destination)
        self._shared.writable()

    def _down(self, reason: str) -> None:
        """Say that the region is not connected, if anybody expects it to be."""
        if self.home or (self._announced and self._announced[0]):
            self._announce(False, reason)

    def _announce(self, connected: bool, reason: str) -> None:
        """Tell observers, but not the same twice: a home that is down is dialled every few seconds."""
        if self._announced != (connected, reason):
            self._announced = (connected, reason)
            self._shared.context.emit(RelayChanged(self.id, connected, reason))
            log.info(
                "relay region %d: %s",
                self.id,
                f"connected{reason and f' by WebSocket: {reason}'}" if connected else reason,
            )

    # ------------------------------------------------------------ the queue before the connection

    def _enqueue(self, burst: Burst, destination: NodePublic) -> None:
        size = burst.size_bytes
        if size > QUEUE_BURST_BYTES:
            self._shared.counters["drop_not_connected"] += burst.count
            return
        self._queue.append((burst.copy(), destination))
        self._queued_bytes += size
        while self._queued_bytes > QUEUE_BYTES:
            oldest, _ = self._queue.popleft()
            self._queued_bytes -= oldest.size_bytes
            self._shared.counters["drop_queue_full"] += oldest.count

    def _drop_queue(self, reason: str) -> None:
        self._shared.counters[f"drop_{reason.replace('-', '_')}"] += sum(burst.count for burst, _ in self._queue)
        self._queue.clear()
        self._queued_bytes = 0


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(BACKOFF_CAP, failures * failures * BACKOFF_STEP) * random.uniform(0.5, 1.5)


async def _first(*events: anyio.Event) -> None:
    """Wait until one of `events` is set."""
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)

"""The relay inside a coder server: connections come from its HTTP port, after the upgrade."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

import anyio

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate
from coder_agent.errors import RemoteProtocolError
from coder_agent.hooks.interfaces import WebSocketLike
from coder_agent.protocols.derp.frames import PROTOCOL_VERSION, FrameType
from coder_agent.protocols.derp.server import Admission, RelayCore, RelaySettings
from coder_agent.protocols.derp.session import RelaySession
from coder_agent.protocols.derp.stream import Arena

from .meta_certificate import load_chain, meta_certificate
from .settings import DerpSettings, relay_key
from .socket_wire import SocketWire
from .wire import TransportWire, tune

log = logging.getLogger(__name__)

WRITE_DEADLINE = 2.0
"""Seconds for which a blocked client may take nothing at all (derpserver.go, -tcp-write-timeout)."""
TICK = 0.5
"""Seconds between looks at stuck clients, keepalives and logins: a quarter of the shortest deadline."""


class DerpRelay:
    """A RelayBackend. Connections are served while `open` is entered; at other times they are closed."""

    name = "derp"

    def __init__(
        self,
        key: NodePrivate | None = None,
        settings: RelaySettings | None = None,
        admit: Admission | None = None,
    ) -> None:
        self.core = RelayCore(key or NodePrivate.generate(os.urandom), rng=os.urandom, settings=settings, admit=admit)
        self._arena: Arena | None = None
        self._wires: set[TransportWire] = set()
        self._open = False

    @classmethod
    def from_settings(cls, settings: DerpSettings) -> DerpRelay:
        """The relay that ``[plugins.transport_derp]`` describes. Raises ConfigError."""
        limits = RelaySettings(
            max_clients=settings.relay_max_clients,
            client_rate=settings.relay_client_rate,
            client_burst=settings.relay_client_burst,
            mesh_key=settings.mesh_key(),
        )
        return cls(relay_key(settings.relay_key_file), limits)

    def upgrade_head(self) -> bytes:
        """The answer to `Upgrade: DERP`, without fast start."""
        return (
            "HTTP/1.1 101 Switching Protocols\r\n"
            "Upgrade: DERP\r\n"
            "Connection: Upgrade\r\n"
            f"Derp-Version: {PROTOCOL_VERSION}\r\n"
            f"Derp-Public-Key: {self.core.public.raw.hex()}\r\n"
            "\r\n"
        ).encode()

    def load_chain(self, context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
        """Load the files, and behind the chain the certificate that lets clients start fast; it is good for 30 days.
        Raises OSError (ssl.SSLError is one)."""
        load_chain(context, cert_file, key_file, meta_certificate(self.core.public, datetime.now(UTC)))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve until the block ends; then every session is closed."""
        self._arena = Arena()
        self._open = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tick)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self._open = False
            self.core.close()
            self._wires.clear()

    def accept(self, transport: object, initial: bytes, remote: AddrPort | None) -> None:
        """Take over an asyncio transport whose HTTP head was answered; `initial` = bytes behind the request head."""
        transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        wire = TransportWire(transport)
        session = self._connect(wire, remote)
        if session is None:
            return
        tune(transport)
        self._wires.add(wire)
        if initial[:1] == bytes((FrameType.CLIENT_INFO,)):  # it knew our key from the TLS handshake: fast start
            self.core.counters["fast_starts"] += 1
        protocol = _RelayProtocol(self, session, wire)
        transport.set_protocol(protocol)
        if initial:
            protocol.feed(initial)
        if not transport.is_closing():
            transport.resume_reading()

    async def accept_websocket(self, socket: WebSocketLike, remote: AddrPort | None) -> None:
        """Serve one accepted WebSocket (subprotocol ``derp``) until it closes. Message boundaries carry no meaning."""
        wire = SocketWire(socket)
        session = self._connect(wire, remote)
        if session is None:
            await socket.close(1013)  # try again later (RFC 6455 registry)
            return
        try:
            await wire.run(session)
        finally:
            session.close()

    def metrics(self) -> Mapping[str, int]:
        """Gauges and counters (`RelayCore.metrics`)."""
        return self.core.metrics()

    def _connect(self, wire: TransportWire | SocketWire, remote: AddrPort | None) -> RelaySession | None:
        session = None
        if self._open:
            session = self.core.connect(wire, remote, asyncio.get_running_loop().time(), self._arena)
        if session is None:
            wire.close()
        return session

    def gone(self, wire: TransportWire) -> None:
        """A connection has ended."""
        self._wires.discard(wire)

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK)
            now = asyncio.get_running_loop().time()
            self.core.on_timer(now)
            for wire in [w for w in self._wires if w.blocked and w.stuck_since(now) >= WRITE_DEADLINE]:
                self.core.drops["write_error"] += 1
                wire.close()


class _RelayProtocol(asyncio.BufferedProtocol):
    """From transport callbacks to session calls."""

    def __init__(self, relay: DerpRelay, session: RelaySession, wire: TransportWire) -> None:
        self._relay = relay
        self._session = session
        self._wire = wire
        self._clock = asyncio.get_running_loop().time

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._session.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            pause = self._session.received(nbytes, self._clock())
        except RemoteProtocolError as exc:
            self._refuse(exc)
            return
        if pause > 0:
            self._pause(pause)

    def feed(self, data: bytes) -> None:
        """Bytes that were read together with the request head."""
        try:
            pause = self._session.feed(data, self._clock())
        except RemoteProtocolError as exc:
            self._refuse(exc)
            return
        if pause > 0:
            self._pause(pause)

    def pause_writing(self) -> None:
        self._wire.pause()

    def resume_writing(self) -> None:
        self._wire.resume(self._session.outbox.flush)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.gone(self._wire)
        self._session.close()

    def _refuse(self, exc: RemoteProtocolError) -> None:
        self._relay.core.counters["protocol_errors"] += 1
        log.info("relay: closing %s: %s", self._session.remote, exc)
        self._session.close()

    def _pause(self, seconds: float) -> None:
        """The client exceeds its rate: TCP's own back-pressure slows it down."""
        self._wire.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if not self._wire.transport.is_closing():
            self._wire.transport.resume_reading()

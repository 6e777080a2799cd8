"""One live connection to a relay: asyncio's callbacks on one side, the DERP client core on the other."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from typing import Protocol, cast

import anyio

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePublic
from coder_agent.errors import CoderAgentError, TransportBroken, TransportClosed
from coder_agent.http import is_ours
from coder_agent.protocols.derp.client import ClientEvent, DerpClient, LoggedIn, PacketsReceived
from coder_agent.protocols.derp.frames import PING_SIZE

from .carrier import Carrier, UpgradeRefused
from .meta_certificate import relay_key_in
from .tls import Check, chain_of
from .wire import TransportWire, tune

SCRATCH_BYTES = 64 << 10
"""Receive buffer while HTTP or WebSocket framing is still around the stream."""
SMALL_BYTES = 4 << 10
"""Disco, handshakes and ACKs of this size are taken even behind bulk that waits for the network …"""
DOUBT_PATIENCE = 1.0
"""Seconds that a relay has to answer a ping when answers are missing: longer than TCP needs to send it three times."""
LINK_PATIENCE = 3.0
"""Seconds for the relay to answer after the network under us changed (magicsock/derp.go, maybeCloseDERPsOnRebind)."""
HARD_LIMIT = 512 << 10
"""… up to this much waiting."""


class Listener(Protocol):
    """Who hears about a connection: its region."""

    def packets(self, source: NodePublic, burst: Burst) -> None: ...
    def said(self, event: ClientEvent) -> None: ...
    def drained(self) -> None: ...
    def writable(self) -> None: ...


class RelayConnection(asyncio.BufferedProtocol):
    """Made for one `create_connection`. `logged_in` and `lost` are awaited by the region's task."""

    def __init__(self, client: DerpClient, carrier: Carrier, listener: Listener, check: Check | None) -> None:
        self.client = client
        self.logged_in = anyio.Event()
        self.lost = anyio.Event()
        self.error: CoderAgentError | None = None
        self.written_at = 0.0
        self.silent_at: float | None = None
        """When the connection counts as dead unless something comes: set after the network changed."""
        self._carrier = carrier
        self._listener = listener
        self._check = check
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._wire: TransportWire | None = None
        self._clock = asyncio.get_running_loop().time

    # ------------------------------------------------------------ for the region

    @property
    def usable(self) -> bool:
        """True from ServerInfo until the connection ends."""
        return self.client.ready and self._wire is not None and not self._wire.transport.is_closing()

    def send(self, burst: Burst, destination: NodePublic) -> bool:
        """Write `burst` at once. False: full, nothing was taken."""
        wire = self._wire
        assert wire is not None
        if wire.blocked and (burst.size_bytes > SMALL_BYTES or wire.transport.get_write_buffer_size() > HARD_LIMIT):
            return False
        self.written_at = now = self._clock()
        data = self.client.send(burst, destination, now)
        if data is not None:
            self._write(data)
        return True

    def link_changed(self) -> None:
        """The network under us changed. A connection from an address that we no longer have is dead at once; another
        one if the relay says nothing until `silent_at`."""
        assert self._wire is not None
        address = self._wire.transport.get_extra_info("sockname")
        if isinstance(address, tuple) and not is_ours(address):
            self.close(TransportBroken("this machine no longer has the address of the relay connection"))
            return
        if self.silent_at is None:
            self.silent_at = self._clock() + LINK_PATIENCE
        self.client.ping(os.urandom(PING_SIZE))
        self.flush()

    def doubt(self) -> None:
        """Somebody misses answers: the connection is dead if the relay, asked, says nothing until `silent_at`."""
        if self.silent_at is None:
            self.silent_at = self._clock() + DOUBT_PATIENCE
            self.client.ping(os.urandom(PING_SIZE))
            self.flush()

    def flush(self) -> None:
        """Write what the core has to say."""
        output = self.client.take_output()
        if output and self._wire is not None and self._carrier.open:
            self._write(output)

    def close(self, error: CoderAgentError | None = None) -> None:
        """End the connection; `error` says why if it is not our wish."""
        self.error = self.error or error or TransportClosed("closed by this program")
        if self._wire is not None:
            self._wire.close()

    # ------------------------------------------------------------ asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._wire = TransportWire(transport)
        tune(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        try:
            if tls is not None and self._check is not None:
                self._check(tls)
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                raise UpgradeRefused("the server speaks HTTP/2 only")
        except CoderAgentError as exc:
            self.close(exc)
            return
        self._start_fast(tls)
        login = self.client.take_output()
        transport.write(self._carrier.request() + login)

    def _start_fast(self, tls: ssl.SSLObject | None) -> None:
        """If the handshake told the relay's key, the login goes with the request: a round trip less. Only from TLS 1.3
        on, which hides certificates from the way between (derphttp_client.go, connect)."""
        if tls is not None and tls.version() == "TLSv1.3":
            key = relay_key_in(chain_of(tls))
            if key is not None and self._carrier.start_fast():
                self.client.know_server(key)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.client.room() if self._carrier.raw else self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self.error is not None:
            return
        now = self._clock()
        self.silent_at = None
        try:
            if self._carrier.raw:
                self._handle(self.client.received(nbytes, now))
            else:
                for chunk in self._carrier.receive(bytes(self._scratch[:nbytes])):
                    self._handle(self.client.feed(chunk, now))
                self._write(b"")  # what the carrier itself owes, such as a WebSocket pong
        except CoderAgentError as exc:
            self.close(exc)
            return
        self.flush()
        self._listener.drained()

    def pause_writing(self) -> None:
        assert self._wire is not None
        self._wire.pause()

    def resume_writing(self) -> None:
        assert self._wire is not None
        self._wire.resume(self._listener.writable)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.error is None:
            reason = str(exc) if exc else "the relay closed it"
            self.error = TransportBroken(f"the relay connection ended: {reason}")
        self.lost.set()

    # ------------------------------------------------------------ inside

    def _handle(self, events: Iterator[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, PacketsReceived):
                self._listener.packets(event.source, event.burst)
            elif isinstance(event, LoggedIn):
                self.written_at = self._clock()
                self.logged_in.set()
            else:
                self._listener.said(event)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._wire is not None
        if self._carrier.raw:
            self._wire.write(data)
            return
        for chunk in self._carrier.wrap(data):
            self._wire.write(chunk)

"""A relay on a port of its own, as a stock derper: for regions without a coder server, for tests and for measuring.

Serves `/derp` (upgrade, with and without fast start), `/derp/probe`, `/derp/latency-check` and `/generate_204`.
WebSocket clients need the coder server, which has an HTTP stack that speaks it.

Source: tailscale derp/derpserver/handler.go @de9ec7ee
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import h11

from coder_agent.base.addresses import AddrPort

from .relay import DerpRelay

HEAD_LIMIT = 16 << 10
"""Bytes of a request head; ours and upstream's have under 400."""
HEAD_TIMEOUT = 30.0
"""Seconds for the request (cmd/derper, ReadTimeout)."""


@asynccontextmanager
async def serve_relay(
    relay: DerpRelay, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[AddrPort]:
    """Listen on `host`:`port` (0 = any) and relay until the block ends. Yields the address listened on."""
    loop = asyncio.get_running_loop()
    async with relay.open():
        server = await loop.create_server(lambda: _HeadProtocol(relay), host, port, ssl=tls)
        try:
            address = server.sockets[0].getsockname()
            yield AddrPort.of(address[0], address[1])
        finally:
            server.close()


class _HeadProtocol(asyncio.Protocol):
    """Reads one request head, answers it, and hands an upgraded connection to the relay."""

    def __init__(self, relay: DerpRelay) -> None:
        self._relay = relay
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return
                if isinstance(event, h11.Request) and self._respond(event):
                    return
                if isinstance(event, h11.EndOfMessage):
                    self._http.start_next_cycle()
        except h11.ProtocolError:
            self._transport.close()

    def _respond(self, request: h11.Request) -> bool:
        """Answer `request`. True: the connection is the relay's now."""
        path = request.target.split(b"?")[0]
        headers = dict(request.headers)
        if path == b"/derp" and headers.get(b"upgrade", b"").lower() == b"derp":
            self._upgrade(headers)
            return True
        if path == b"/derp":
            self._send(426, b"DERP requires connection upgrade\n")
        elif path in (b"/derp/probe", b"/derp/latency-check"):
            self._send(200 if request.method in (b"GET", b"HEAD") else 405, b"")
        elif path == b"/generate_204":
            self._send(204, b"")
        else:
            self._send(404, b"not found\n")
        return False

    def _upgrade(self, headers: dict[bytes, bytes]) -> None:
        assert self._transport is not None
        assert self._timer is not None
        self._timer.cancel()
        if headers.get(b"derp-fast-start") != b"1":
            self._transport.write(self._relay.upgrade_head())
        peer = self._transport.get_extra_info("peername")
        remote = AddrPort.of(peer[0].partition("%")[0], peer[1]) if isinstance(peer, tuple) else None
        trailing, _ = self._http.trailing_data
        self._relay.accept(self._transport, trailing, remote)

    def _send(self, status: int, body: bytes) -> None:
        assert self._transport is not None
        headers = [("Access-Control-Allow-Origin", "*"), ("Cache-Control", "no-store")]
        if status != 204:
            headers.append(("Content-Length", str(len(body))))
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            data = self._http.send(event)
            if data:
                self._transport.write(data)

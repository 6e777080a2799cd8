"""HTTP in front of a relay: reads one request head, answers it, and hands an upgraded connection to the relay.

Serves `/derp` (upgrade, with and without fast start; WebSocket), `/derp/probe`, `/derp/latency-check`,
`/generate_204`, `/healthz` and a page at `/`. Source: tailscale derp/derpserver/handler.go, cmd/derper @de9ec7ee
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import h11

from coder_agent.base.addresses import AddrPort

from ..relay import DerpRelay
from .admission import shows_token
from .websocket import ServerWebSocket

HEAD_LIMIT = 16 << 10
"""Bytes of a request head; ours and upstream's have under 400."""
HEAD_TIMEOUT = 30.0
"""Seconds for the request (cmd/derper, ReadTimeout)."""
MAX_WAITING = 10_000
"""Connections without a finished request. One more costs the oldest of them its place: half-open ones take bounded
memory, and do not keep out who asks at once."""
CHALLENGE = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""What a captive-portal check may ask us to repeat (cmd/derper, isChallengeChar)."""


@dataclass(slots=True)
class Door:
    """What the HTTP side of one relay shares. `page` makes the page at ``/``; `healthy` decides about ``/healthz``."""

    relay: DerpRelay
    token: str = ""
    page: Callable[[], bytes] = lambda: b"<!doctype html><title>DERP relay</title><h1>DERP relay</h1>\n"
    healthy: Callable[[], bool] = lambda: True
    waiting: dict[HeadProtocol, None] = field(default_factory=dict)
    """In the order of their coming."""
    sockets: set[asyncio.Task[None]] = field(default_factory=set)

    def protocol(self) -> HeadProtocol:
        """For `loop.create_server`."""
        return HeadProtocol(self)


class HeadProtocol(asyncio.Protocol):
    """One connection, until it is the relay's or closed."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        if len(self._door.waiting) >= MAX_WAITING:
            next(iter(self._door.waiting)).give_up()
        self._door.waiting[self] = None
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()

    def give_up(self) -> None:
        """Somebody else needs the place."""
        self._done()
        if self._transport is not None:
            self._transport.abort()

    def _done(self) -> None:
        self._door.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            self._head += data[: HEAD_LIMIT - len(self._head)]
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return
                if isinstance(event, h11.Request) and self._respond(event):
                    return
                if isinstance(event, h11.EndOfMessage):
                    self._http.start_next_cycle()
                    self._head = bytearray(self._http.trailing_data[0])
        except h11.ProtocolError:
            self._transport.close()

    def _respond(self, request: h11.Request) -> bool:
        """Answer `request`. True: the connection is no longer ours."""
        path = request.target.split(b"?")[0]
        headers = dict(request.headers)
        if path == b"/derp":
            return self._derp(headers)
        if path in (b"/derp/probe", b"/derp/latency-check"):
            self._send(200 if request.method in (b"GET", b"HEAD") else 405, b"")
        elif path == b"/generate_204":
            challenge = headers.get(b"x-tailscale-challenge", b"")
            known = (
                [("X-Tailscale-Response", f"response {challenge.decode()}")] if CHALLENGE.fullmatch(challenge) else []
            )
            self._send(204, b"", known)
        elif path == b"/healthz":
            good = self._door.healthy()
            self._send(200 if good else 503, b"OK\n" if good else b"draining\n")
        elif path == b"/":
            self._send(200, self._door.page(), [("Content-Type", "text/html; charset=utf-8")])
        else:
            self._send(404, b"not found\n")
        return False

    def _derp(self, headers: dict[bytes, bytes]) -> bool:
        upgrade = headers.get(b"upgrade", b"").lower()
        offered = [name.strip() for name in headers.get(b"sec-websocket-protocol", b"").split(b",")]
        if upgrade not in (b"derp", b"websocket"):
            self._send(426, b"DERP requires connection upgrade\n", [("Upgrade", "DERP")])
        elif self._door.token and not shows_token(headers, self._door.token):
            self._send(401, b"this relay wants a token\n", [("WWW-Authenticate", "Bearer")])
        elif not self._door.healthy():
            self._send(503, b"this relay is about to stop\n", [("Retry-After", "1")])
        elif upgrade == b"websocket" and b"derp" in offered:
            return self._websocket()
        else:  # "websocket" without our subprotocol is the oldest clients' way to say DERP
            self._upgrade(headers)
            return True
        return False

    def _remote(self) -> AddrPort | None:
        assert self._transport is not None
        peer = self._transport.get_extra_info("peername")
        return AddrPort.of(peer[0].partition("%")[0], peer[1]) if isinstance(peer, tuple) else None

    def _upgrade(self, headers: dict[bytes, bytes]) -> None:
        assert self._transport is not None
        self._done()
        if headers.get(b"derp-fast-start") != b"1":
            self._transport.write(self._door.relay.upgrade_head())
        trailing, _ = self._http.trailing_data
        self._door.relay.accept(self._transport, trailing, self._remote())

    def _websocket(self) -> bool:
        assert self._transport is not None
        self._done()
        socket = ServerWebSocket(self._transport)
        if socket.accept(bytes(self._head)):
            remote = self._remote()
            task = asyncio.get_running_loop().create_task(self._door.relay.accept_websocket(socket, remote))
            self._door.sockets.add(task)
            task.add_done_callback(self._door.sockets.discard)
        return True

    def _send(self, status: int, body: bytes, more: Sequence[tuple[str, str]] = ()) -> None:
        assert self._transport is not None
        headers = [("Access-Control-Allow-Origin", "*"), ("Cache-Control", "no-store"), *more]
        if status != 204:
            headers.append(("Content-Length", str(len(body))))
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            data = self._http.send(event)
            if data:
                self._transport.write(data)

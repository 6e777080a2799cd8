"""One HTTP/1.1 connection served by an ASGI application: h11 over any byte stream.

Nothing is buffered beyond one read: the body is read when the application asks for it, and `send` waits for the reader.

Source: asgi.readthedocs.io specs/www.html (HTTP version 2.4), extensions `http.response.trailers`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.abc
import h11

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

READ_SIZE = 64 << 10
MAX_HEAD = 64 << 10
"""Bytes of a request's head; longer ones are refused with 431."""
HEAD_TIMEOUT = 75.0
"""Seconds for the next request's head, idle time included (nginx keepalive_timeout)."""
LINGER, LINGER_READS = 2.0, 64
"""Seconds, and reads, for which a refused request's rest is thrown away."""
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass(slots=True)
class Place:
    """Where the application is served: what its scopes say."""

    server: tuple[str, int | None] | None = None
    client: tuple[str, int] | None = None
    state: dict[str, Any] = field(default_factory=dict)


class Disconnected(Exception):
    """The peer is gone; nothing can be sent any more."""


class HttpConnection:
    """Serves requests one after the other. `upgraded` is set when one asks for a WebSocket: its request, and what came
    behind it, are for somebody else."""

    def __init__(self, stream: anyio.abc.ByteStream, app: AsgiApp, place: Place) -> None:
        self.upgraded: tuple[h11.Request, bytes] | None = None
        self._stream = stream
        self._app = app
        self._place = place
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self) -> None:
        """Until the peer closes, errs, or asks for a WebSocket."""
        http = self._http
        try:
            while (request := await self._next_request()) is not None:
                if wants_websocket(request):
                    self.upgraded = (request, bytes(http.trailing_data[0]))
                    return
                if not await Exchange(self._stream, http, self._place, request).run(self._app):
                    return
                http.start_next_cycle()
        except _GONE:
            return
        except h11.RemoteProtocolError as exc:
            await self._refuse(exc.error_status_hint)

    async def _next_request(self) -> h11.Request | None:
        with anyio.move_on_after(HEAD_TIMEOUT):
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None  # the peer has closed
                try:
                    self._http.receive_data(await self._stream.receive(READ_SIZE))
                except anyio.EndOfStream:
                    self._http.receive_data(b"")
        return None

    async def _refuse(self, status: int) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = h11.Response(status_code=status, headers=[("Content-Length", "0"), ("Connection", "close")])
        with suppress(*_GONE), anyio.move_on_after(LINGER):
            await self._stream.send((self._http.send(answer) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
            await self._stream.send_eof()
            for _ in range(LINGER_READS):  # closed with something unread, it would be reset, and the answer lost
                await self._stream.receive(READ_SIZE)


def wants_websocket(request: h11.Request) -> bool:
    """Does a request's head ask for RFC 6455?"""
    return request.method == b"GET" and any(
        name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in request.headers
    )


def scope_of(request: h11.Request, place: Place, kind: str) -> dict[str, Any]:
    """What a request tells an application. `kind`: http or websocket. The scheme is the one that the visitor's browser
    sees, which the server's proxy passes on: peers inside the tunnel are authenticated."""
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    path, _, query = bytes(request.target).partition(b"?")
    if not path.startswith(b"/"):  # an absolute form (RFC 9112 §3.2.2), or ``*``
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2] if b"://" in path else b"/"
    forwarded = next((value for name, value in headers if name == b"x-forwarded-proto"), b"")
    secure = forwarded.lower() == b"https"
    schemes = ("ws", "wss") if kind == "websocket" else ("http", "https")
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": schemes[secure],
        "path": unquote(path.decode("latin-1"), encoding="utf-8"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "server": place.server,
        "client": place.client,
        "state": dict(place.state),
    }


class Exchange:
    """One request and its response."""

    def __init__(self, stream: anyio.abc.ByteStream, http: h11.Connection, place: Place, request: h11.Request) -> None:
        self._stream = stream
        self._http = http
        self._place = place
        self._request = request
        self._reading = anyio.Lock()
        self._start: Message | None = None
        self._started = self._gone = self._body_done = self._ended = False
        self._trailers: list[tuple[bytes, bytes]] | None = None

    async def run(self, app: AsgiApp) -> bool:
        """True: another request may follow on this connection."""
        scope = scope_of(self._request, self._place, "http")
        scope["extensions"] = {"http.response.trailers": {}}
        try:
            await app(scope, self._receive, self._send)
        except Disconnected:
            return False
        except Exception:
            log.exception("the application failed on %s %s", scope["method"], scope["path"])
            return await self._failed()
        if not self._ended:
            log.error("the application did not finish its answer to %s %s", scope["method"], scope["path"])
            return await self._failed()
        return not self._gone and self._http.our_state is h11.DONE and await self._skip_body()

    async def _failed(self) -> bool:
        """Tell the peer, if its answer has not begun; a truncated one must not look complete."""
        if not self._started and not self._gone:
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            with suppress(Disconnected, h11.LocalProtocolError):
                await self._write(h11.Response(status_code=500, headers=headers), h11.EndOfMessage())
        return False

    async def _skip_body(self) -> bool:
        """A body that the application did not want: the connection is kept only if all of it is here already."""
        while self._http.their_state is not h11.DONE:
            event = self._http.next_event()
            if isinstance(event, h11.EndOfMessage):
                return True
            if not isinstance(event, h11.Data):  # NEED_DATA, or the end
                return False
        return True

    # ------------------------------------------------------------ what the application is given

    async def _receive(self) -> Message:
        async with self._reading:
            while True:
                if self._gone:
                    return {"type": "http.disconnect"}
                if self._body_done:
                    await self._wait_gone()
                    continue
                if self._http.they_are_waiting_for_100_continue:
                    await self._write(h11.InformationalResponse(status_code=100, headers=[]))
                try:
                    event = self._http.next_event()
                except h11.RemoteProtocolError as exc:  # a body that breaks its own framing
                    log.debug("a request's body ended badly: %s", exc)
                    self._gone = True
                    continue
                if isinstance(event, h11.Data):
                    return {"type": "http.request", "body": bytes(event.data), "more_body": True}
                if isinstance(event, h11.EndOfMessage):
                    self._body_done = True
                    return {"type": "http.request", "body": b"", "more_body": False}
                await self._read()

    async def _read(self) -> None:
        try:
            self._http.receive_data(await self._stream.receive(READ_SIZE))
        except anyio.EndOfStream:
            self._gone = True
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._gone = True

    async def _wait_gone(self) -> None:
        """The request is complete: whatever comes is the next one's beginning, which must wait, or the end."""
        if len(self._http.trailing_data[0]) > MAX_HEAD:
            await anyio.sleep_forever()  # a pipelining peer; it waits for our answer as we do
        await self._read()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._ended:
            raise RuntimeError(f"{kind} behind the end of the answer")
        if kind == "http.response.start":
            self._begin(message)
        elif kind == "http.response.body":
            await self._send_body(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
        elif kind == "http.response.trailers":
            await self._send_trailers(message.get("headers", ()), bool(message.get("more_trailers", False)))
        else:
            raise RuntimeError(f"unknown message {kind!r}")

    def _begin(self, message: Message) -> None:
        if self._start is not None:
            raise RuntimeError("http.response.start a second time")
        self._start = message
        if message.get("trailers"):
            self._trailers = []

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._start is None:
            raise RuntimeError("http.response.body before http.response.start")
        events: list[Any] = []
        if not self._started:
            self._started = True
            events.append(h11.Response(status_code=self._start["status"], headers=_fields(self._start["headers"])))
        if body and self._request.method != b"HEAD":
            events.append(h11.Data(data=body))
        if not more and self._trailers is None:
            events.append(h11.EndOfMessage())
            self._ended = True
        await self._write(*events)

    async def _send_trailers(self, headers: Iterable[tuple[bytes, bytes]], more: bool) -> None:
        if self._trailers is None or not self._started:
            raise RuntimeError("trailers that http.response.start did not announce, or before the body")
        self._trailers += _fields(headers)
        if not more:
            self._ended = True
            chunked = self._request.http_version == b"1.1"
            await self._write(h11.EndOfMessage(headers=self._trailers if chunked else []))

    async def _write(self, *events: Any) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        try:
            if data:
                await self._stream.send(data)
        except _GONE:
            self._gone = True
            raise Disconnected from None


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in headers]

"""One WebSocket served by an ASGI application: the sans-IO core of `websockets` over any byte stream.

Messages wait in a queue of eight: a slow application stops the reading, and with it the peer. Pings are answered as
they are read.

Source: asgi.readthedocs.io specs/www.html (WebSocket version 2.4), RFC 6455.
"""

from __future__ import annotations

import logging

import anyio
import anyio.abc
import h11
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from .asgi_http import READ_SIZE, AsgiApp, Disconnected, Message, Place, scope_of

log = logging.getLogger(__name__)

MAX_MESSAGE = 16 << 20
"""Bytes of one message, as uvicorn allows."""
QUEUED = 8
"""Messages that wait for the application."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the peer's close frame after ours."""
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class WebSocketConnection:
    """Serves one WebSocket, from its request on."""

    def __init__(
        self, stream: anyio.abc.ByteStream, app: AsgiApp, place: Place, request: h11.Request, behind: bytes
    ) -> None:
        self._stream = stream
        self._app = app
        self._place = place
        self._request = request
        self._behind = behind
        self._socket = ServerProtocol(max_size=MAX_MESSAGE)
        self._put, self._get = anyio.create_memory_object_stream[Message](QUEUED)
        self._connected = False  # the application was told of the connection
        self._answered = False  # accepted or refused
        self._code, self._reason = int(CloseCode.ABNORMAL_CLOSURE), ""
        self._denial: Message | None = None
        self._parts: list[bytes] = []
        self._text = False
        self._over = False  # both close frames are there, or the peer broke the rules

    async def run(self) -> None:
        """Until either side closes."""
        self._socket.receive_data(_head(self._request))
        (head,) = self._socket.events_received() or (None,)
        if not isinstance(head, Request):
            return
        self._answer = self._socket.accept(head)
        if self._answer.status_code != 101:  # not a proper opening handshake
            self._socket.send_response(self._answer)
            await self._flush()
            return
        scope = scope_of(self._request, self._place, "websocket")
        offered = (value for name, value in scope["headers"] if name == b"sec-websocket-protocol")
        scope["subprotocols"] = [one.strip().decode("latin-1") for line in offered for one in line.split(b",")]
        scope["extensions"] = {"websocket.http.response": {}}
        del scope["method"]
        with self._put, self._get:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    await self._app(scope, self._receive, self._send)
                    await self._close(CloseCode.NORMAL_CLOSURE, "")
                except (Disconnected, *_GONE):
                    pass
                except Exception:
                    log.exception("the application failed on a WebSocket of %s", scope["path"])
                    await self._close(CloseCode.INTERNAL_ERROR, "")
                tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ what the application is given

    async def _receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if not self._answered:
            await anyio.sleep_forever()
        try:
            return await self._get.receive()
        except anyio.EndOfStream:
            return {"type": "websocket.disconnect", "code": self._code, "reason": self._reason}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.send":
            if self._socket.state is not State.OPEN:
                raise Disconnected
            text = message.get("text")
            if text is not None:
                self._socket.send_text(text.encode())
            else:
                self._socket.send_binary(message.get("bytes") or b"")
            await self._flush()
        elif kind == "websocket.http.response.start":
            self._denial = message
        elif kind == "websocket.http.response.body":
            await self._deny(message.get("body", b""), bool(message.get("more_body")))
        else:
            raise RuntimeError(f"unknown message {kind!r}")

    async def _accept(self, message: Message) -> None:
        if self._answered:
            raise RuntimeError("websocket.accept a second time")
        self._answered = True
        if message.get("subprotocol"):
            self._answer.headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
        for name, value in message.get("headers", ()):
            self._answer.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._socket.send_response(self._answer)
        await self._flush()
        self._tasks.start_soon(self._read)

    async def _close(self, code: int, reason: str) -> None:
        if not self._answered:
            self._answered = True
            self._socket.send_response(self._socket.reject(403, ""))
        elif self._socket.state is State.OPEN:
            self._socket.send_close(CloseCode(code) if code in set(CloseCode) else code, reason)
        else:
            return
        await self._flush()
        if self._socket.state is State.CLOSING:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                async for _ in self._get:  # what comes before the peer's close frame is nobody's any more
                    pass

    async def _deny(self, body: bytes, more: bool) -> None:
        """Another answer than 101, head and body; bounded, for it is kept until it is whole."""
        assert self._denial is not None
        kept = self._denial.get("kept", b"") + bytes(body)
        if more:
            self._denial["kept"] = kept[:MAX_MESSAGE]
            return
        self._answered = True
        answer = self._socket.reject(self._denial["status"], "")
        for name, value in self._denial.get("headers", ()):
            key = name.decode("latin-1")
            if key.lower() not in ("content-length", "connection", "date"):
                if key in answer.headers:
                    del answer.headers[key]
                answer.headers[key] = value.decode("latin-1")
        del answer.headers["Content-Length"]
        answer.headers["Content-Length"] = str(len(kept))
        answer.body = kept
        self._socket.send_response(answer)
        await self._flush()

    # ------------------------------------------------------------ the stream

    async def _read(self) -> None:
        data: bytes | None = self._behind
        try:
            with self._put:
                while self._socket.state is not State.CLOSED:
                    if data:
                        self._socket.receive_data(data)
                    elif data is None:
                        self._socket.receive_eof()
                        break
                    for event in self._socket.events_received():
                        if isinstance(event, Frame) and (message := self._message(event)) is not None:
                            await self._put.send(message)
                    await self._flush()
                    if self._over:
                        break
                    data = await self._next()
        except (ConnectionClosed, InvalidHandshake, Disconnected, anyio.BrokenResourceError):
            pass
        finally:
            received = self._socket.close_rcvd or self._socket.close_sent
            if received is not None:
                self._code, self._reason = int(received.code), received.reason
            self._put.close()

    async def _next(self) -> bytes | None:
        try:
            return await self._stream.receive(READ_SIZE)
        except _GONE:
            return None

    def _message(self, frame: Frame) -> Message | None:
        """The message that a frame completes."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return None
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return None
        data, self._parts = b"".join(self._parts), []
        if self._text:
            try:
                return {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self._socket.fail(CloseCode.INVALID_DATA, "not UTF-8")
                return None
        return {"type": "websocket.receive", "bytes": data}

    async def _flush(self) -> None:
        chunks = self._socket.data_to_send()
        data = b"".join(chunks)
        try:
            if data:
                await self._stream.send(data)
            if SEND_EOF in chunks and not self._over:
                self._over = True
                await self._stream.send_eof()
        except _GONE:
            raise Disconnected from None


def _head(request: h11.Request) -> bytes:
    """A request's head as it came, for a core that wants to read it itself."""
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % field for field in request.headers.raw_items()]
    return b"\r\n".join([*lines, b"", b""])

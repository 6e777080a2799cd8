"""A WebSocket, client side, as a byte stream: the carrier of the control connection.

The handshake and frames are the `websockets` library's sans-I/O protocol; the connection is ours (dial.py), so that
proxies, certificates and error messages are the same as for every other request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.abc
from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ..errors import CoderAgentError, TransportBroken
from ..hooks.interfaces import DialOptions
from .dial import CONNECT_TIMEOUT, Endpoint, dial
from .header_command import headers_of
from .http import USER_AGENT, HttpResponse, api_error, merge_headers, not_ours

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one message (the read limit of stock agents)."""
CLOSE_TIMEOUT = 1.0
"""Seconds for the other side to answer our close frame."""
_DATA = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class WebSocketStream:
    """The payloads of a WebSocket as one stream of bytes; message boundaries mean nothing (runtime.rpc.ByteStream)."""

    def __init__(self, stream: anyio.abc.ByteStream, protocol: ClientProtocol, name: str) -> None:
        self._stream = stream
        self._protocol = protocol
        self._name = name
        self._ready: deque[bytes] = deque()
        self._sending = anyio.Lock()
        self._closed = False

    async def receive(self) -> bytes:
        """Some bytes. Raises TransportBroken when the connection ended, with the reason that the server gave."""
        while not self._ready:
            await self._pump()
        return self._ready.popleft()

    async def send(self, item: bytes, /) -> None:
        """Send `item` as one message. Raises TransportBroken."""
        if self._protocol.state is not State.OPEN:
            raise self._end()
        self._protocol.send_binary(item)
        await self._flush()

    async def aclose(self) -> None:
        """Say goodbye, wait a moment for the answer, close."""
        if self._closed:
            return
        self._closed = True
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT):
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(1000)
                    await self._flush()
                while self._protocol.close_expected():
                    await self._pump()
        except TransportBroken:
            pass  # closed by the other side, which is as good
        finally:
            await anyio.aclose_forcefully(self._stream)

    @property
    def local_address(self) -> tuple[object, ...]:
        """Our end's socket address; () if that is no TCP connection."""
        address = self._stream.extra(anyio.abc.SocketAttribute.local_address, ())
        return tuple(address) if isinstance(address, tuple) else ()

    async def abort(self) -> None:
        """Close at once: nobody is there any more to whom one could say goodbye."""
        self._closed = True
        await anyio.aclose_forcefully(self._stream)

    async def handshake(self, headers: Mapping[str, str]) -> None:
        """Open. Raises ApiError, Unauthenticated, CoordinationError (refused), TransportBroken."""
        request = self._protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        await self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            await self._pump()
        error = self._protocol.handshake_exc
        if error is not None:
            raise TransportBroken(f"{self._name}: the WebSocket handshake failed: {error}") from error

    async def _pump(self) -> None:
        """Read once; take what it brought."""
        if self._is_over():
            raise self._end()
        try:
            self._protocol.receive_data(await self._stream.receive())
        except anyio.EndOfStream:
            self._protocol.receive_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
            raise TransportBroken(f"the connection to {self._name} broke") from exc
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                _check(self._name, event)
            elif isinstance(event, Frame) and event.opcode in _DATA and event.data:
                self._ready.append(bytes(event.data))
        await self._flush()
        if self._is_over() and not self._ready:
            raise self._end()

    def _is_over(self) -> bool:
        """Nothing more will come: closed, or being closed by the other side."""
        state = self._protocol.state
        return state is State.CLOSED or (state is State.CLOSING and not self._closed)

    async def _flush(self) -> None:
        async with self._sending:
            for data in self._protocol.data_to_send():
                if not data:
                    continue  # the library's way to say "half-close"; we close as a whole
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
                    raise TransportBroken(f"the connection to {self._name} broke") from exc

    def _end(self) -> CoderAgentError:
        if isinstance(self._protocol.parser_exc, ProtocolError | PayloadTooBig):
            return TransportBroken(f"{self._name} broke the WebSocket rules: {self._protocol.parser_exc}")
        closed = self._protocol.close_rcvd  # not close_reason: that one waits until the TCP connection is gone, too
        reason = closed.reason if closed is not None else ""
        return TransportBroken(f"{self._name} closed the connection{f': {reason}' if reason else ''}")


def _check(name: str, response: Response) -> None:
    """Anything but 101 is an error document of the API, or not from a server of ours."""
    if response.status_code == 101:
        return
    headers = {key.lower(): value for key, value in response.headers.raw_items()}
    body = response.body or b""
    answer = HttpResponse(response.status_code, headers, bytes(body))
    if response.status_code < 300:
        raise not_ours(name, f"it answered a WebSocket request with HTTP status {response.status_code}")
    raise api_error(name, answer)


async def open_websocket(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    options: DialOptions | None = None,
    timeout: float = CONNECT_TIMEOUT,
    subprotocol: str = "",
    address: str = "",
) -> WebSocketStream:
    """Open a WebSocket at an http(s) or ws(s) URL, without compression. `subprotocol` must be accepted if given;
    `address`: where to connect if not where the URL's name leads.

    Raises: TransportBroken, ConfigError, and what the server's refusal means (http.api_error).
    """
    options = options or DialOptions()
    endpoint = Endpoint.parse(url)
    parts = urlsplit(url)
    target = urlunsplit(("wss" if endpoint.secure else "ws", endpoint.host_header, parts.path, parts.query, ""))
    shown = f"{'https' if endpoint.secure else 'http'}://{endpoint.host_header}"
    fields = merge_headers({"User-Agent": USER_AGENT}, await headers_of(options), headers or {})
    stream = await dial(endpoint, options, timeout=timeout, address=address)
    try:
        with anyio.fail_after(timeout):
            wanted = [Subprotocol(subprotocol)] if subprotocol else None
            protocol = ClientProtocol(parse_uri(target), subprotocols=wanted, max_size=MAX_MESSAGE)
            socket = WebSocketStream(stream, protocol, shown)
            await socket.handshake(fields)
            if subprotocol and protocol.subprotocol != subprotocol:
                raise TransportBroken(f"{shown} does not speak {subprotocol} over its WebSocket")
            return socket
    except TimeoutError as exc:
        await anyio.aclose_forcefully(stream)
        raise TransportBroken(f"{shown} took longer than {timeout:g} s to open the WebSocket") from exc
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise

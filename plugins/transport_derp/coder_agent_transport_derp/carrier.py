"""How the DERP byte stream gets through HTTP: by `Upgrade: DERP`, or as a WebSocket with subprotocol ``derp``.

Both are sans-IO: `request()` goes out first, `receive()` turns what comes back into DERP bytes.

Source: tailscale derp/derphttp/derphttp_client.go @de9ec7ee; the fall-back is Coder's (coder/tailscale, same file).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import h11
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from coder_agent.errors import RemoteProtocolError, TransportBroken

USER_AGENT = "coder-agent"
MAX_MESSAGE_BYTES = 2 << 20
"""Largest WebSocket message accepted: twice the largest DERP frame."""


class UpgradeRefused(TransportBroken):
    """Whatever answers at this address does not let `Upgrade: DERP` through; a WebSocket may pass."""


class Carrier(Protocol):
    """One way through HTTP."""

    @property
    def raw(self) -> bool:
        """True once bytes pass unchanged in both directions: `receive` and `wrap` need not be called any more."""
        ...

    @property
    def open(self) -> bool:
        """True once the server accepted and DERP bytes may be sent."""
        ...

    def start_fast(self) -> bool:
        """We know the relay's key already: may DERP follow the request at once? Asked before `request`."""
        ...

    def request(self) -> bytes:
        """What to send first."""
        ...

    def receive(self, data: bytes) -> list[bytes]:
        """DERP bytes in `data`. Raises UpgradeRefused, TransportBroken, RemoteProtocolError."""
        ...

    def wrap(self, data: bytes | memoryview) -> list[bytes]:
        """`data` as it must be written; empty `data` = only what the carrier itself has to say."""
        ...


class UpgradeCarrier:
    """`GET /derp` with `Upgrade: DERP`: nothing but the head, then bare DERP. Started fast, a relay that agrees does
    not answer the request; one that does not (draining, a token missing) still says so in HTTP."""

    def __init__(self, host: str, headers: Mapping[str, str]) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._headers = [("Host", host), ("Upgrade", "DERP"), ("Connection", "Upgrade"), ("User-Agent", USER_AGENT)]
        self._headers += list(headers.items())
        self.raw = False
        self._fast = False
        self._answered = False

    @property
    def open(self) -> bool:
        """True behind the 101 answer, or at once if nobody waits for it."""
        return self.raw or self._fast

    def start_fast(self) -> bool:
        """Ask for no answer."""
        self._headers.append(("Derp-Fast-Start", "1"))
        self._fast = True
        return True

    def request(self) -> bytes:
        """The request head."""
        head = self._http.send(h11.Request(method="GET", target="/derp", headers=self._headers))
        return (head or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def receive(self, data: bytes) -> list[bytes]:
        """Read the answer's head; bytes that were read with it already belong to DERP."""
        if self._fast and not self._answered and data[:1] != b"H":  # no frame has the number of HTTP's first letter
            self.raw = True
            return [data]
        self._answered = True
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = self._http.next_event()
        except h11.ProtocolError as exc:
            raise UpgradeRefused("the relay's answer is not HTTP/1.1") from exc
        if event is h11.NEED_DATA:
            return []
        if isinstance(event, h11.InformationalResponse):
            self.raw = True
            trailing, _ = self._http.trailing_data
            return [trailing] if trailing else []
        if isinstance(event, h11.Response):
            raise _refusal(event.status_code)
        raise TransportBroken("the relay closed the connection instead of answering the upgrade")

    def wrap(self, data: bytes | memoryview) -> list[bytes]:
        """Unchanged."""
        return [bytes(data)] if data else []


def _refusal(status: int) -> TransportBroken:
    """Anything but 101 says that the upgrade does not get through; also 501 and 505, which are what some gateways
    answer to upgrades that they do not know. Other 5xx are a server in trouble, which may pass."""
    if 500 <= status <= 599 and status not in (501, 505):
        return TransportBroken(f"the relay answered HTTP {status}")
    return UpgradeRefused(f"HTTP {status} instead of a protocol upgrade")


class NoCarrier:
    """A relay in the same process: there is no HTTP to get through."""

    raw = True
    open = True

    def start_fast(self) -> bool:
        """There is no TLS that could have told its key."""
        return False

    def request(self) -> bytes:
        """Nothing."""
        return b""

    def receive(self, data: bytes) -> list[bytes]:
        """Unchanged."""
        return [data]

    def wrap(self, data: bytes | memoryview) -> list[bytes]:
        """Unchanged."""
        return [bytes(data)] if data else []


class WebSocketCarrier:
    """The same byte stream in binary messages, whose boundaries carry no meaning. No compression: it is ciphertext."""

    def __init__(self, host: str, headers: Mapping[str, str], *, secure: bool) -> None:
        uri = parse_uri(f"{'wss' if secure else 'ws'}://{host}/derp")
        self._socket = ClientProtocol(uri, subprotocols=[Subprotocol("derp")], max_size=MAX_MESSAGE_BYTES)
        self._headers = {"User-Agent": USER_AGENT, **headers}
        self.raw = False

    @property
    def open(self) -> bool:
        """True while the WebSocket is established."""
        return self._socket.state is State.OPEN

    def start_fast(self) -> bool:
        """Never: messages follow the answer."""
        return False

    def request(self) -> bytes:
        """The opening handshake."""
        request = self._socket.connect()
        for name, value in self._headers.items():
            if name in request.headers:
                del request.headers[name]
            request.headers[name] = value
        self._socket.send_request(request)
        return b"".join(self._socket.data_to_send())

    def receive(self, data: bytes) -> list[bytes]:
        """Payloads of the messages in `data`."""
        self._socket.receive_data(data)
        payloads: list[bytes] = []
        for event in self._socket.events_received():
            if isinstance(event, Response):
                self._check(event)
            elif isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    raise RemoteProtocolError("the relay sent a text message")
                if event.opcode in (Opcode.BINARY, Opcode.CONT):
                    payloads.append(bytes(event.data))
        if self._socket.parser_exc is not None:
            raise RemoteProtocolError(f"the WebSocket broke: {self._socket.parser_exc}") from self._socket.parser_exc
        if self._socket.state in (State.CLOSING, State.CLOSED):
            raise TransportBroken(f"the relay closed the WebSocket: {self._socket.close_exc}")
        return payloads

    def wrap(self, data: bytes | memoryview) -> list[bytes]:
        """One message per call, and the pongs that WebSocket itself owes."""
        if data:
            self._socket.send_binary(data)
        return [chunk for chunk in self._socket.data_to_send() if chunk]

    def _check(self, response: Response) -> None:
        failure = self._socket.handshake_exc
        if failure is not None:
            raise TransportBroken(f"no WebSocket to the relay: HTTP {response.status_code}: {_words(failure)}")
        if self._socket.subprotocol != "derp":
            raise TransportBroken("no WebSocket to the relay: it does not speak the subprotocol derp")


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, WebSocketException) else type(error).__name__

"""Requests that a plugin answers on the connection itself, before there is an ASGI request: `ConnectionRoute`.

ASGI knows no request trailers, no half-close and no foreign upgrade, and its price per request is several times that of
passing bytes on. So the head of each request is shown to the connection routes first. The one that claims it gets the
connection, beginning with that head; when the connection's next request is somebody else's, it gives the connection
back and we go on as if it had just arrived.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping, Sequence

import h11
import uvicorn
from uvicorn.server import ServerState

from coder_agent.hooks.web_apps import ConnectionRoute

from .request_marks import ConnectionMarks, Marker, RequestMark
from .upgrade import UpgradableH11Protocol

HEAD_END = b"\r\n\r\n"
NO_HEAD = frozenset(range(256)) - frozenset(f"!#$%&'*+-.^_`|~\r\n{string.ascii_letters}{string.digits}".encode())
"""Bytes that begin no request: what is in no token (RFC 9110 §5.6.2), nor an empty line before one (RFC 9112 §2.2)."""


class Taken:
    """A connection that a route took over (`coder_agent.hooks.web_apps.TakenConnection`)."""

    def __init__(self, protocol: RoutedH11Protocol, transport: asyncio.Transport, initial: bytes) -> None:
        self._protocol = protocol
        self.transport = transport
        self.initial = initial
        self.secure = protocol.scheme == "https"
        self.client = protocol.client
        assert protocol.marker is not None
        self._marks = protocol.marks or protocol.marker.connection(self.secure, self.client)

    def begin(self, method: bytes, target: bytes, named: Mapping[bytes, bytes]) -> RequestMark:
        """A request of the connection is being answered."""
        return self._marks.begin(method, target, named)

    def give_back(self, data: bytes) -> None:
        """The next request, which begins with `data`, is not ours."""
        if self.transport.is_closing():
            return
        fresh = self._protocol.twin()
        fresh.marks = self._marks
        self.transport.set_protocol(fresh)
        fresh.connection_made(self.transport)
        self.transport.resume_reading()
        if data:
            fresh.data_received(data)


class RoutedH11Protocol(UpgradableH11Protocol):
    """uvicorn's protocol, asking `routes` about each head before it parses it."""

    routes: Sequence[ConnectionRoute] = ()
    marker: Marker | None = None
    marks: ConnectionMarks | None = None
    """Those of this connection, if it was taken over and given back."""
    _head: bytearray

    def __init__(self, config: uvicorn.Config, server_state: ServerState, *arguments: object, **more: object) -> None:
        super().__init__(config, server_state, *arguments, **more)  # type: ignore[arg-type]
        self._made_with = (config, server_state, arguments, more)
        self._head = bytearray()

    def twin(self) -> RoutedH11Protocol:
        """A new protocol of the same server, for the same connection."""
        config, server_state, arguments, more = self._made_with
        return type(self)(config, server_state, *arguments, **more)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes. Between two requests they are kept until the head is whole."""
        if not self._is_between_requests():
            super().data_received(data)
            return
        self._head += data
        if self._may_be_a_head() and HEAD_END not in self._head:
            self._unset_keepalive_if_required()
            self._watch_head()
            return
        whole = bytes(self._head)
        self._head.clear()
        if (route := next((route for route in self.routes if route.claims(whole)), None)) is not None:
            self._hand_to(route, whole)
        else:
            super().data_received(whole)

    def on_response_complete(self) -> None:
        """uvicorn: one answer is out. A request that was sent without waiting for it is looked at like any other."""
        behind = bytes(self.conn.trailing_data[0])
        if behind and self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE:
            limit = self.config.h11_max_incomplete_event_size
            self.conn = h11.Connection(h11.SERVER, limit) if limit else h11.Connection(h11.SERVER)
            super().on_response_complete()
            if not self.transport.is_closing():
                self.data_received(behind)
            return
        super().on_response_complete()

    def _may_be_a_head(self) -> bool:
        """Is it worth waiting for the rest? A TLS greeting, or more than a head may have, is told so at once."""
        limit = self.config.h11_max_incomplete_event_size or 0
        return self._head[0] not in NO_HEAD and len(self._head) <= limit

    def _is_between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE and not self.conn.trailing_data[0]

    def _hand_to(self, route: ConnectionRoute, whole: bytes) -> None:
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self._head_complete()
        self.server_state.total_requests += 1
        self.transport.pause_reading()
        route.accept(Taken(self, self.transport, whole))


def protocol_for(routes: Sequence[ConnectionRoute] = (), marker: Marker | None = None) -> type[UpgradableH11Protocol]:
    """The protocol class of a listener with these routes, whose requests `marker` marks."""
    if not routes:
        return UpgradableH11Protocol
    return type("RoutedProtocol", (RoutedH11Protocol,), {"routes": tuple(routes), "marker": marker})

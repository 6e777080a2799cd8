"""Hand a connection over to another protocol: uvicorn's HTTP/1.1 parser, plus one door for ``Upgrade: DERP``.

An upgrade request stays an ordinary request, so that routing and middleware apply. The scope carries an
``http.upgrade`` extension; a route that wants the connection calls `take()` and from then on owns the transport and
every byte that followed the head. Any other server (or test client) has no such extension: the route answers 426.

The names overridden here are uvicorn's own business; test_upgrade_contract.py notices when they change.
"""

from __future__ import annotations

import asyncio

import h11
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

EXTENSION = "http.upgrade"
TOKENS = frozenset({b"derp"})
"""What may be upgraded to, in lower case. WebSocket goes uvicorn's own way."""
HEAD_SECONDS = 10.0
"""How long a request head may take from its first byte, and a connection until then: whoever says nothing shall not
keep a socket."""


class UpgradeUnavailable(Exception):
    """The connection cannot be handed over (any more)."""


class Upgrade:
    """The offer to take a connection over. `token` is what the client asked for, in lower case."""

    def __init__(self, protocol: UpgradableH11Protocol, token: str) -> None:
        self._protocol = protocol
        self.token = token

    def take(self) -> tuple[asyncio.Transport, bytes]:
        """The transport, with reading paused, and the bytes that came behind the head. uvicorn forgets both.

        The caller sets its protocol on the transport and resumes reading. Raises UpgradeUnavailable.
        """
        return self._protocol.hand_over()


class UpgradableH11Protocol(H11Protocol):
    """uvicorn's h11 protocol, able to let go of a connection, and impatient with those who never finish a request."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio: a connection."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_complete()
        elif self.conn.trailing_data[0]:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is over."""
        self._head_complete()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _should_upgrade(self) -> bool:
        token = self._get_upgrade()
        if token in TOKENS:
            extensions = self.scope.get("extensions") or {}
            self.scope["extensions"] = {**extensions, EXTENSION: Upgrade(self, token.decode())}  # type: ignore[dict-item]
            return False
        return super()._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Strangers may ask for any upgrade they like: no line in the log for that."""

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """See Upgrade.take."""
        if self.transport.is_closing() or self.cycle is None or self.cycle.response_started:
            raise UpgradeUnavailable("the connection is closing or already answered")
        if self.cycle.more_body:
            raise UpgradeUnavailable("the request has a body that was not read")
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self._head_complete()
        self.cycle.disconnected = True  # the application returns without an answer, and that is right
        self.transport.pause_reading()  # whatever arrives before the new protocol is set stays in the socket
        trailing, _closed = self.conn.trailing_data
        return self.transport, trailing


def offered_upgrade(request: Request) -> Upgrade | None:
    """The upgrade that a request asks for and this server can do."""
    found = (request.scope.get("extensions") or {}).get(EXTENSION)
    return found if isinstance(found, Upgrade) else None


class HandedOver(Response):
    """The response of a route that took the connection: nothing is left to say."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do nothing."""

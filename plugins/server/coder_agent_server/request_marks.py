"""Ids, headers and figures of requests that are answered on the connection itself (connection_routes.py): the same as
front.py gives to those of the application.

What can be done once per connection is: the id of a request is its connection's and a number. Our version is not among
the headers: apps are for strangers, too.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping

from starlette.types import Scope

from .front import FrontRules, Tally, is_logged, log_access
from .request_ids import REQUEST_ID_HEADER, current, new_request_id

_NAME = REQUEST_ID_HEADER.encode()


class Marker:
    """One for a server."""

    def __init__(self, rules: FrontRules, tally: Tally) -> None:
        self.rules = rules
        self.tally = tally

    def connection(self, secure: bool, client: tuple[str, int] | None) -> ConnectionMarks:
        """For a connection that is taken over."""
        return ConnectionMarks(self, secure, client)


class ConnectionMarks:
    """The marks of one connection's requests."""

    __slots__ = ("_client", "_count", "_id", "_marker", "_secure", "_tls", "_trusted")

    def __init__(self, marker: Marker, secure: bool, client: tuple[str, int] | None) -> None:
        rules = marker.rules
        self._marker = marker
        self._secure = secure
        self._client = client
        self._trusted = rules.proxies.trusts(client)
        self._id = secrets.token_hex(8)
        self._count = 0
        self._tls = f"Strict-Transport-Security: {rules.hsts}\r\n".encode("latin-1") if rules.hsts else b""

    def begin(self, method: bytes, target: bytes, named: Mapping[bytes, bytes]) -> RequestMark:
        """A request arrived. Its id is that of log lines that the running task writes from now on."""
        self._count += 1
        identifier, secure, client = f"{self._id}-{self._count}", self._secure, self._client
        if self._trusted:
            identifier = new_request_id(named.get(b"x-request-id", b"").decode("latin-1"), identifier)
            scope: Scope = {
                "type": "http",
                "scheme": "https" if secure else "http",
                "client": client,
                "headers": named.items(),
            }
            self._marker.rules.proxies.apply(scope)
            secure, client = scope["scheme"] == "https", scope["client"]
        current.set(identifier)
        lines = b"%b: %b\r\n%b" % (_NAME, identifier.encode("latin-1"), self._tls if secure else b"")
        return RequestMark(self._marker.tally, identifier, lines, method, target, client[0] if client else "")


class RequestMark:
    """A `coder_agent.hooks.web_apps.RequestMark`."""

    __slots__ = ("_client", "_method", "_started", "_tally", "_target", "identifier", "lines")

    def __init__(self, tally: Tally, identifier: str, lines: bytes, method: bytes, target: bytes, client: str) -> None:
        self.identifier = identifier
        self.lines = lines
        self._tally = tally
        self._method = method
        self._target = target
        self._client = client
        self._started = time.monotonic()
        tally.in_progress += 1

    def end(self, status: int) -> None:
        """The answer is out, or nobody waits for it any more."""
        self._tally.in_progress -= 1
        seconds = time.monotonic() - self._started
        method = "WEBSOCKET" if status == 101 else str(self._method, "latin-1")
        self._tally.count(method, status, seconds)
        if is_logged():
            path = str(self._target.partition(b"?")[0], "latin-1")
            log_access(method, path, status, seconds, self.identifier, self._client)

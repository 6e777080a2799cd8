"""What every request passes first: its id, the visitor's address, the host it was meant for; and what every reply
carries: our version, the id, and headers that tell browsers to be careful.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .request_ids import REQUEST_ID_HEADER, current, mark, new_request_id
from .trusted_proxies import TrustedProxies

access_log = logging.getLogger("coder_agent.server.access")

VERSION_HEADER = "X-Coder-Build-Version"
"""Without it on a 404, `coder login` says that this is not a coder instance."""
API_PREFIX = "/api/"
API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Documents of the API are data: nothing in them is to be run, framed or sent."""

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: bounds of the histogram, Prometheus's usual ones."""


@dataclass(slots=True)
class Tally:
    """Requests by kind, for /metrics. Bounded: methods and status classes are few, paths are not among the labels."""

    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATIONS) + 1))
    """How many took at most so long, of DURATIONS, and longer; without WebSockets, which take as long as they like."""
    seconds: float = 0.0
    in_progress: int = 0
    websockets: int = 0

    def count(self, method: str, status: int, seconds: float) -> None:
        """One is over."""
        label = (method if method in _METHODS else "other", f"{status // 100}xx")
        self.requests[label] = self.requests.get(label, 0) + 1
        if method != "WEBSOCKET":
            self.durations[bisect_left(DURATIONS, seconds)] += 1
            self.seconds += seconds


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})


@dataclass(frozen=True, slots=True)
class FrontRules:
    """`hsts`: value of Strict-Transport-Security, empty = none. `redirect`: where requests for another host are sent
    (``--redirect-to-access-url``), given the Host header; None = it is ours."""

    version: str
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    hsts: str = ""
    redirect: Callable[[Scope], str | None] = field(default=lambda scope: None)


class Front:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, rules: FrontRules, tally: Tally) -> None:
        self._app = app
        self._rules = rules
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        trusted = self._rules.proxies.trusts(scope.get("client"))
        offered = Headers(scope=scope).get("x-request-id", "") if trusted else ""
        self._rules.proxies.apply(scope)
        identifier = new_request_id(offered)
        mark(scope, identifier)  # type: ignore[arg-type]  # a Scope is a dict
        token = current.set(identifier)
        visit = _Visit(scope, send, self._rules, identifier)
        started = time.monotonic()
        self._enter(scope, 1)
        try:
            target = self._rules.redirect(scope) if scope["type"] == "http" else None
            app = self._app if target is None else RedirectResponse(target, 307)
            await app(scope, receive, visit.send)
        finally:
            self._enter(scope, -1)
            current.reset(token)
            self._over(scope, visit.status, time.monotonic() - started, identifier)

    def _enter(self, scope: Scope, change: int) -> None:
        if scope["type"] == "websocket":
            self._tally.websockets += change
        else:
            self._tally.in_progress += change

    def _over(self, scope: Scope, status: int, seconds: float, identifier: str) -> None:
        method = "WEBSOCKET" if scope["type"] == "websocket" else str(scope["method"])
        self._tally.count(method, status, seconds)
        if is_logged():
            client = scope.get("client")
            log_access(method, scope["path"], status, seconds, identifier, client[0] if client else "")


def is_logged() -> bool:
    """Does anybody want a line about each request?"""
    return access_log.isEnabledFor(logging.DEBUG)


def log_access(method: str, path: str, status: int, seconds: float, identifier: str, client: str) -> None:
    """The line of a request that is over. `path` without its query: there may be tokens in that."""
    access_log.debug(
        "%s %s %d %.1f ms",
        method,
        path,
        status,
        seconds * 1000,
        extra={
            "request_id": identifier,
            "method": method,
            "path": path,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "client": client,
        },
    )


class _Visit:
    """One request's replies on their way out."""

    def __init__(self, scope: Scope, send: Send, rules: FrontRules, identifier: str) -> None:
        self._secure = scope["scheme"] in ("https", "wss")
        self._is_api = scope["path"].startswith(API_PREFIX)
        self._send = send
        self._rules = rules
        self._identifier = identifier
        self.status = 0

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        kind = message["type"]
        if kind in _STARTS:
            self.status = 101 if kind == "websocket.accept" else message["status"]
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers[VERSION_HEADER] = self._rules.version
            headers[REQUEST_ID_HEADER] = self._identifier
            if self._secure and self._rules.hsts:
                headers["Strict-Transport-Security"] = self._rules.hsts
            if self._is_api:
                headers.setdefault("Content-Security-Policy", API_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

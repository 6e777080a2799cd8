"""From a request's head to a Visit: whose app, by whom, and does it belong here at all?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import hygiene
from .addresses import BadAddress, Method, Wildcard, looks_like_path, parse_label, parse_path, split_host
from .http1 import RequestHead, quick_header, quick_target
from .paths import escaped_from
from .visit import Visit, asgi_scope, split_sealed

AUTH_PATH = b"/api/v2/applications/auth-redirect"
"""Where an app's host sends visitors to be recognised. Source: coder coderd/workspaceapps.go."""
LOGOUT_LABEL = "coder-logout"
"""A label that is no app's: it leads to the access URL. Source: coder coderd/workspaceapps/proxy.go."""

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_OUR_BEARER = re.compile(r"(?i:bearer)\s+([A-Za-z0-9]{10}-[A-Za-z0-9]{22})\s*")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the server is: its access URL, and the hosts of apps. `believe` puts what trusted reverse proxies say
    into a scope (`ServerContext.believe_proxies`)."""

    access_url: str
    wildcard: Wildcard | None
    believe: Callable[[dict[str, object]], None]

    @property
    def app_cookie(self) -> str:
        """The cookie of sessions on app hosts; its name depends on the wildcard, for deployments below one another.
        Source: coder coderd/workspaceapps/cookies.go."""
        suffix = self.wildcard.suffix if self.wildcard else ""
        return f"{hygiene.APP_SESSION_PREFIX}_{hashlib.sha256(f'*{suffix}'.encode()).digest()[:16].hex()}"

    def claims(self, head: bytes) -> bool:
        """Is the request with this head ours? Quick, and wrong only in favour of claiming."""
        target = quick_target(head)
        host = quick_header(head, b"host") if self.wildcard is not None or not looks_like_path(target) else b""
        if not target.startswith(b"/") and (found := _ABSOLUTE.match(target)) is not None:
            host, target = found[1], found[2]
        if looks_like_path(target) or target.partition(b"?")[0] == AUTH_PATH:
            return True
        if self.wildcard is not None and self.label_of(host.decode("latin-1")) is not None:
            return True
        referer = quick_header(head, b"referer")
        return bool(referer) and self._is_escaped(referer.decode("latin-1"), host.decode("latin-1"), target)

    def label_of(self, host: str) -> str | None:
        """The label of an app's host; None for every other host, the server's own among them."""
        if self.wildcard is None or host.lower() == urlsplit(self.access_url).netloc.lower():
            return None
        try:
            return self.wildcard.label_of(split_host(host)[0])
        except BadAddress:
            return None

    def _is_escaped(self, referer: str, host: str, target: bytes) -> bool:
        parts = urlsplit(referer)
        return (
            parts.netloc.lower() == host.lower()
            and looks_like_path(parts.path.encode("latin-1", "replace"))
            and not looks_like_path(target)
        )

    def escaped(self, visit_outside: str, request: RequestHead) -> str:
        """Where a request belongs that an app's page below a path sent past it: the page's app. Empty: nowhere."""
        page = escaped_from(request.named.get(b"referer", b"").decode("latin-1"), visit_outside).encode("latin-1")
        if not looks_like_path(page) or looks_like_path(request.target):
            return ""
        try:
            address, rest = parse_path(page)
        except BadAddress:
            return ""
        sealed, _ = split_sealed(rest)
        base = f"{address.base}~{sealed}/" if sealed else address.base
        return base + request.target[1:].decode("latin-1")

    def outside(self, host: str, scope: dict[str, object]) -> str:
        """Our origin as the browser sees it. A TLS-terminating proxy in front is known by the access URL, too."""
        scheme = str(scope["scheme"])
        access = urlsplit(self.access_url)
        if scheme == "http" and access.scheme == "https":
            is_app = self.label_of(host) is not None
            if is_app or host.lower() == access.netloc.lower():
                scheme = "https"
        return f"{scheme}://{host}"

    def visit(self, request: RequestHead, client: tuple[str, int] | None, secure: bool) -> Visit:
        """Raises BadAddress."""
        scope = asgi_scope(request, client, "https" if secure else "http")
        self.believe(scope)
        outside = self.outside(request.host, scope)
        peer = scope.get("client")
        address_text = str(peer[0]) if isinstance(peer, (tuple, list)) else ""
        cookies = hygiene.cookies_of(request.headers)
        label = self.label_of(request.host)
        if label is not None:
            if not label:
                raise BadAddress("App hosts have one label, such as 8080--agent--workspace--owner, and no more.")
            address, rest, sealed = parse_label(label, request.host), request.target, ""
        else:
            address, rest = parse_path(request.target)
            sealed, rest = split_sealed(rest)
        found = Visit(request, address, rest, sealed, outside, address_text, cookies, scope)
        found.credential, found.cookies_count = self._credential(found)
        return found

    def _credential(self, visit: Visit) -> tuple[str, bool]:
        """What identifies the visitor, and whether browsers send it by themselves: app cookie, session cookie, then
        what only programs send. Source: coder coderd/workspaceapps, order of places."""
        if visit.sealed:
            return visit.sealed, False
        if visit.address.method is Method.SUBDOMAIN and (cookie := visit.cookies.get(self.app_cookie)):
            return cookie, True
        if session := visit.cookies.get(hygiene.SESSION):
            return session, True
        named = visit.request.named
        query = visit.request.target.partition(b"?")[2] if b"coder_session_token" in visit.request.target else b""
        bearer = _OUR_BEARER.fullmatch(named.get(b"authorization", b"").decode("latin-1"))
        parts = [
            query.decode("latin-1"),
            named.get(b"coder-session-token", b"").decode("latin-1"),
            bearer[1] if bearer else "",
        ]
        return "\0".join(parts) if any(parts) else "", False

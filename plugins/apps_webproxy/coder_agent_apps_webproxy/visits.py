"""From a request's head to a Visit: whose app, by whom, and does it belong here at all?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from . import hygiene
from .addresses import BadAddress, Method, Wildcard, looks_like_path, parse_label, parse_path, split_host
from .http1 import REMEMBERED, Fields, RequestHead, quick_header, quick_target
from .paths import escaped_from
from .visit import Asker, Visit, believable, split_sealed

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
    app_cookie: str = field(init=False)
    """The cookie of sessions on app hosts; its name depends on the wildcard, for deployments below one another.
    Source: coder coderd/workspaceapps/cookies.go."""
    _asker: Callable[[Fields, str, tuple[str, int] | None, bool], Asker] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        suffix = self.wildcard.suffix if self.wildcard else ""
        digest = hashlib.sha256(f"*{suffix}".encode()).digest()[:16].hex()
        object.__setattr__(self, "app_cookie", f"{hygiene.APP_SESSION_PREFIX}_{digest}")
        object.__setattr__(self, "_asker", lru_cache(REMEMBERED)(self._read_asker))

    def claims(self, head: bytes) -> bool:
        """Is the request with this head ours? Quick, and wrong only in favour of claiming."""
        target = quick_target(head)
        if looks_like_path(target):
            return True
        host = quick_header(head, b"host")
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
        asker = self._asker(request.fields, request.host, client, secure)
        if asker.label is None:
            address, rest = parse_path(request.target)
            sealed, rest = split_sealed(rest)
        elif asker.label:
            address, rest, sealed = parse_label(asker.label, request.host), request.target, ""
        else:
            raise BadAddress("App hosts have one label, such as 8080--agent--workspace--owner, and no more.")
        found = Visit(request, asker, address, rest, sealed, asker.outside, asker.client, asker.cookies)
        found.credential, found.cookies_count = self._credential(found)
        return found

    def _read_asker(self, fields: Fields, host: str, client: tuple[str, int] | None, secure: bool) -> Asker:
        """`_asker` remembers what this found out: all of it follows from the arguments and our settings."""
        scope = believable(fields.headers, client, "https" if secure else "http")
        self.believe(scope)
        peer = scope.get("client")
        named = fields.named
        bearer = _OUR_BEARER.fullmatch(named.get(b"authorization", b"").decode("latin-1"))
        return Asker(
            outside=self.outside(host, scope),
            client=str(peer[0]) if isinstance(peer, (tuple, list)) else "",
            label=self.label_of(host),
            cookies=hygiene.cookies_of(fields.headers),
            shown=(named.get(b"coder-session-token", b"").decode("latin-1"), bearer[1] if bearer else ""),
            origin=scope,
        )

    def _credential(self, visit: Visit) -> tuple[str, bool]:
        """What identifies the visitor, and whether browsers send it by themselves: app cookie, session cookie, then
        what only programs send. Source: coder coderd/workspaceapps, order of places."""
        if visit.sealed:
            return visit.sealed, False
        if visit.address.method is Method.SUBDOMAIN and (cookie := visit.cookies.get(self.app_cookie)):
            return cookie, True
        if session := visit.cookies.get(hygiene.SESSION):
            return session, True
        query = visit.request.target.partition(b"?")[2] if b"coder_session_token" in visit.request.target else b""
        parts = [query.decode("latin-1"), *visit.asker.shown]
        return "\0".join(parts) if any(parts) else "", False

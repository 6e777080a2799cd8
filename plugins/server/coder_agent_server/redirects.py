"""``--redirect-to-access-url``: browsers that came by another name or by plain HTTP are sent to the right place."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

OPEN_PATHS = ("/derp", "/healthz", "/latency-check", "/api/v2/buildinfo")
"""Relays and health checks reach this server by other names, and follow no redirects."""


def redirect_rule(access_url: str, wildcard: str, *, by_scheme: bool) -> Callable[[Scope], str | None]:
    """The rule for this deployment. Hosts of subdomain apps are ours; the target is always the access URL itself, so
    that nobody can make us send somebody elsewhere. `by_scheme`: plain HTTP is redirected too; not where a reverse
    proxy that is not trusted ends TLS, for all that comes from it looks like plain HTTP.

    Source: coder cli/server.go, redirectToAccessURL.
    """
    access = urlsplit(access_url)
    suffix = wildcard.removeprefix("*").partition(":")[0].rstrip(".")

    def target(scope: Scope) -> str | None:
        path = scope["path"]
        if any(path == one or path.startswith(f"{one}/") for one in OPEN_PATHS):
            return None
        host = Headers(scope=scope).get("host", "").lower()
        if suffix and host.partition(":")[0].endswith(suffix):
            return None
        if host == access.netloc.lower() and (not by_scheme or scope["scheme"] == access.scheme):
            return None
        query = scope.get("query_string", b"").decode("latin-1")
        raw = (scope.get("raw_path") or path.encode()).decode("latin-1")
        return f"{access_url}/{raw.lstrip('/')}" + (f"?{query}" if query else "")

    return target

"""Pages of other origins: who may read an app's answers (CORS), and whose requests are refused outright.

The server answers CORS for subdomain apps: apps of the same owner may talk to each other, nobody else; an app with the
behaviour ``passthru`` answers for itself. Source: coder coderd/httpmw/cors.go, coderd/workspaceapps/cors.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from .addresses import AppAddress, BadAddress, Method, Wildcard, parse_label, split_host
from .http1 import Headers, RequestHead

METHODS = b"HEAD, GET, POST, PUT, PATCH, DELETE"
SAFE = frozenset([b"GET", b"HEAD", b"OPTIONS"])

SameOwner = Callable[[str, str], bool]
"""Do two user names in URLs mean one person?"""


def same_name(a: str, b: str) -> bool:
    """User names are compared without case."""
    return a.lower() == b.lower()


def owner_of_origin(origin: str, wildcard: Wildcard | None) -> str:
    """The owner of the app whose page this is; empty if it is no app's."""
    if wildcard is None:
        return ""
    try:
        name, _ = split_host(urlsplit(origin).netloc)
        label = wildcard.label_of(name)
        return parse_label(label).owner if label else ""
    except (BadAddress, ValueError):
        return ""


def is_foreign(request: RequestHead, address: AppAddress, outside: str, wildcard: Wildcard | None) -> bool:
    """Does another site's page, or another owner's app, use the visitor's cookies here? `outside`: our origin as the
    browser sees it for this request. Programs send no Origin; a sandboxed page's is null."""
    origin = request.named.get(b"origin", b"").decode("latin-1").lower()
    if not origin or origin == outside.lower():
        return False
    if address.method is Method.SUBDOMAIN and same_name(owner_of_origin(origin, wildcard), address.owner):
        return False
    return request.method not in SAFE or bool(request.upgrade)


def cors_answer(request: RequestHead, address: AppAddress, wildcard: Wildcard | None) -> Headers:
    """The CORS headers for the page that asks; none if it may not read this."""
    origin = request.named.get(b"origin", b"")
    if not origin or not same_name(owner_of_origin(origin.decode("latin-1"), wildcard), address.owner):
        return []
    return _allow(origin, request, credentials=True)


def cors_for_sandbox(request: RequestHead) -> Headers:
    """For pages in our sandbox, whose origin is null: they come with a key in the path, and cookies play no part."""
    return _allow(b"null", request, credentials=False) if request.named.get(b"origin") == b"null" else []


def _allow(origin: bytes, request: RequestHead, *, credentials: bool) -> Headers:
    found: Headers = [(b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin")]
    if credentials:
        found.append((b"Access-Control-Allow-Credentials", b"true"))
    if is_preflight(request):
        found.append((b"Access-Control-Allow-Methods", METHODS))
        if asked := request.named.get(b"access-control-request-headers"):
            found.append((b"Access-Control-Allow-Headers", asked))
        found.append((b"Access-Control-Max-Age", b"60"))
    else:
        found.append((b"Access-Control-Expose-Headers", b"*"))
    return found


def is_preflight(request: RequestHead) -> bool:
    """Is it a browser's question before the real request?"""
    named = request.named
    return request.method == b"OPTIONS" and b"origin" in named and b"access-control-request-method" in named


def without_cors(headers: Headers) -> Headers:
    """An answer without the app's own CORS decisions."""
    return [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-")]

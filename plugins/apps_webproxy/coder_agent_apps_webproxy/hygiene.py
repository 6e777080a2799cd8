"""What may pass: headers and cookies on their way to an app and back.

Ours never reach an app (session cookies, tokens in headers and queries), forged forwarding headers neither; hop-by-hop
fields end at each hop. Source: RFC 9110 §7.6.1; coder coderd/httpapi/cookie.go (StripCoderCookies).
"""

from __future__ import annotations

import re

from .http1 import Headers, tokens

SESSION = "coder_session_token"
"""Cookie, query parameter and (with dashes) header of the server's own sessions."""
APP_SESSION_PREFIX = "coder_subdomain_app_session_token"
SIGNED_TOKEN = "coder_signed_app_token"
OURS = frozenset(
    name.encode()
    for name in (SESSION, SIGNED_TOKEN, "coder_path_app_session_token", "csrf_token", "oauth_state", "oauth_redirect")
)
OURS_PREFIX = APP_SESSION_PREFIX.encode()

HOP_BY_HOP = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
     b"transfer-encoding", b"upgrade"]
)  # fmt: skip
FORWARDING = frozenset(
    [b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"x-client-ip", b"x-cluster-client-ip"]
)
"""With everything that begins with x-forwarded-: only we say who the client is. Source: coder httpmw/realip.go."""
NEVER_TO_BROWSERS = HOP_BY_HOP | {b"x-coder-request-id", b"strict-transport-security"}
"""The id of the request, and whether a host insists on TLS, is the server's business (exchange.py adds them)."""
NEVER_TO_APPS = HOP_BY_HOP | FORWARDING | {b"coder-session-token", b"coder-external-proxy-token", b"host"}

_OUR_KEY = re.compile(rb"(?i:bearer)[ \t]+[A-Za-z0-9]{10}-[A-Za-z0-9]{22}[ \t]*")
_OUR_QUERY = re.compile(rb"(?:^|(?<=&))coder_(?:session_token|signed_app_token\w*)=[^&]*&?", re.IGNORECASE)


def is_ours(cookie: bytes) -> bool:
    """Is a cookie of this name one of ours?"""
    return cookie in OURS or cookie.startswith(OURS_PREFIX)


def cookies_of(headers: Headers) -> dict[str, str]:
    """Cookies by name; of two with a name the first, as the browser puts the more specific path first."""
    found: dict[str, str] = {}
    for name, value in headers:
        if len(name) == 6 and name.lower() == b"cookie":
            for part in value.split(b";"):
                key, equals, text = part.strip(b" \t").partition(b"=")
                if equals:
                    found.setdefault(key.decode("latin-1"), text.decode("latin-1").strip('"'))
    return found


def without_our_cookies(value: bytes) -> bytes:
    """A Cookie header without ours; the rest byte for byte."""
    if b"coder_" not in value and b"csrf_token" not in value and b"oauth_" not in value:
        return value
    kept = [part for part in value.split(b";") if not is_ours(part.partition(b"=")[0].strip(b" \t"))]
    return b";".join(kept).strip(b" \t")


def without_our_query(target: bytes) -> bytes:
    """A request target without our tokens in its query."""
    path, mark, query = target.partition(b"?")
    if not mark or b"coder_" not in query.lower():
        return target
    kept = _OUR_QUERY.sub(b"", query).rstrip(b"&")
    return path + b"?" + kept if kept else path


def to_app(headers: Headers, *, keep_upgrade: bool = False) -> Headers:
    """The headers that an app may see; Host and forwarding headers are to be added by the caller."""
    named = (
        tokens(headers, b"connection") if any(len(n) == 10 and n.lower() == b"connection" for n, _ in headers) else ()
    )
    passed: Headers = []
    for name, value in headers:
        low = name.lower()
        if low in NEVER_TO_APPS or low.startswith(b"x-forwarded-") or (named and low in named):
            if low == b"te" and b"trailers" in value.lower():
                passed.append((name, b"trailers"))
            elif low == b"upgrade" and keep_upgrade:
                passed.append((name, value))
            continue
        if low == b"cookie":
            value = without_our_cookies(value)
            if not value:
                continue
        elif low == b"authorization" and _OUR_KEY.fullmatch(value):
            continue
        passed.append((name, value))
    if keep_upgrade:
        passed.append((b"Connection", b"Upgrade"))
    return passed


def from_app(headers: Headers, *, keep_upgrade: bool = False) -> Headers:
    """The headers of an answer that a browser may see. Cookies that carry our names, or another domain, are dropped:
    an app must neither fix a visitor's session nor reach other apps' hosts."""
    named = (
        tokens(headers, b"connection") if any(len(n) == 10 and n.lower() == b"connection" for n, _ in headers) else ()
    )
    passed: Headers = []
    for name, value in headers:
        low = name.lower()
        if low in NEVER_TO_BROWSERS or (named and low in named):
            if low == b"upgrade" and keep_upgrade:
                passed.append((name, value))
            continue
        if low == b"set-cookie":
            if is_ours(value.partition(b"=")[0].strip(b" \t")):
                continue
            value = without_domain(value)
        passed.append((name, value))
    if keep_upgrade:
        passed.append((b"Connection", b"Upgrade"))
    return passed


def without_domain(cookie: bytes) -> bytes:
    """A Set-Cookie value for this host alone."""
    if b"domain" not in cookie.lower():
        return cookie
    parts = cookie.split(b";")
    return b";".join(
        [parts[0], *(part for part in parts[1:] if part.partition(b"=")[0].strip(b" \t").lower() != b"domain")]
    )

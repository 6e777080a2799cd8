"""Apps that live below a path although they think that they are at the root: what must be rewritten, both ways.

`base` is where the browser sees the app, ``/@alice/dev/ports/8080/`` (with a sealed segment behind it for sandboxed
pages); `hosts` are those by which the app may call itself, ``localhost:8080``.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from .http1 import Headers

DROPPED = frozenset(
    [b"service-worker-allowed", b"clear-site-data", b"strict-transport-security", b"public-key-pins", b"nel",
     b"report-to", b"reporting-endpoints", b"alt-svc", b"origin-agent-cluster"]
)  # fmt: skip
"""Answers that would speak for the whole origin, which is not the app's: a service worker for every page, the visitor's
session cleared."""

SANDBOX = (
    b"sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads allow-pointer-lock"
    b" allow-presentation allow-orientation-lock"
)
"""An origin of its own for the page: it cannot use the visitor's session, nor navigate the window that holds it.
Source: HTML §7.1.5; the words left out are allow-same-origin, allow-top-navigation, allow-popups-to-escape-sandbox."""


def below(base: str, url: str, hosts: Sequence[str]) -> str:
    """Where the browser must go for a URL that the app names: one of the app's own is moved below `base`; others, and
    what is below it already, stay. `hosts`: the app's, in lower case, such as ``localhost:8080``."""
    if url.startswith("/") and not url.startswith("//"):
        return url if url.startswith(base) or url == base[:-1] else base + url[1:]
    if url[:2] == "//" or "://" in url[:12]:
        parts = urlsplit(url)
        scheme, authority = parts.scheme.lower(), parts.netloc.lower()
        if authority in hosts and scheme in ("", "http", "https"):
            path = url.split("//", 1)[1][len(parts.netloc) :]
            return below(base, path if path.startswith("/") else "/" + path, ())
    return url


def rewrite_answer(headers: Headers, base: str, hosts: Sequence[str]) -> Headers:
    """An answer's headers for an app below `base`: places and cookie paths moved, claims to the origin dropped."""
    moved: Headers = []
    for name, value in headers:
        low = name.lower()
        if low in DROPPED:
            continue
        if low in (b"location", b"content-location"):
            value = below(base, value.decode("latin-1"), hosts).encode("latin-1")
        elif low == b"refresh":
            value = _refresh(value.decode("latin-1"), base, hosts).encode("latin-1")
        elif low == b"set-cookie":
            value = cookie_below(value, base)
        moved.append((name, value))
    return moved


def _refresh(value: str, base: str, hosts: Sequence[str]) -> str:
    delay, mark, url = value.partition("=")
    if not mark or not delay.lower().endswith("url"):
        return value
    moved = below(base, url.strip(" \"'"), hosts)
    return f"{delay}={moved}"


def cookie_below(cookie: bytes, base: str) -> bytes:
    """A Set-Cookie value whose Path is below `base`. Without a Path the browser takes the page's own, below it
    anyway."""
    if cookie.startswith((b"__Host-", b"__host-")):  # demands Path=/, which we cannot give: browsers would refuse it
        cookie = cookie[7:]
    parts = cookie.split(b";")
    for number, part in enumerate(parts[1:], 1):
        name, _, path = part.partition(b"=")
        if name.strip(b" \t").lower() == b"path":
            text = path.strip(b" \t").decode("latin-1")
            parts[number] = b" Path=" + (below(base, text, ()) if text.startswith("/") else base).encode("latin-1")
    if not any(part.partition(b"=")[0].strip(b" \t").lower() == b"path" for part in parts[1:]):
        parts.append(b" Path=" + base.encode("latin-1"))
    return b";".join(parts)


def app_referer(value: str, base: str, outside: str, inside: str) -> str:
    """The Referer or Origin that the app may see: `outside` is the server's origin, `inside` the app's own. A page of
    the app becomes its own again, without our prefix, in which there may be a key; others of our origin become its
    root."""
    if value in (outside, "null"):
        return inside
    if not value.startswith(f"{outside}/"):
        return value
    path = value[len(outside) :]
    return f"{inside}/{path[len(base) :]}" if path.startswith(base) else f"{inside}/"


def escaped_from(referer: str, outside: str) -> str:
    """The path of the page that asks, if it is a page of `outside`; else empty."""
    return referer[len(outside) :] if referer.startswith(f"{outside}/") else ""

"""One request to an app, with everything that was found out about it before anybody is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .addresses import AppAddress, Method
from .http1 import Headers, RequestHead
from .jars import Jar


@dataclass(slots=True, eq=False)
class Asker:
    """What the header lines of a request say about who asks and from where, whatever is asked for. `label`: that of an
    app's host, None = it is another host; `shown` is what programs identify themselves with: token, bearer."""

    outside: str
    client: str
    label: str | None
    cookies: Mapping[str, str]
    shown: tuple[str, str]
    origin: Mapping[str, object]
    """Scheme, client and headers of an ASGI scope, as the server believes them."""
    head: tuple[tuple[object, ...], bytes] | None = field(default=None, repr=False)
    """The header lines that went to an app last, and for what (answers.py)."""


_SEALED = re.compile(rb"/~([A-Za-z0-9_-]{40,512})(?=[/?]|$)")


@dataclass(slots=True)
class Visit:
    """`outside`: our origin as the browser sees it. `base`: where the browser sees the app, with the sealed segment if
    there is one. `rest`: the target for the app, as it was sent. `credential`: what the visitor shows, empty =
    nothing."""

    request: RequestHead
    asker: Asker
    address: AppAddress
    rest: bytes
    sealed: str
    outside: str
    client: str
    cookies: Mapping[str, str]
    credential: str = field(default="", repr=False)
    cookies_count: bool = True
    """Would a browser send the credential by itself, whoever's page asks?"""

    @property
    def scope(self) -> dict[str, object]:
        """As the server's own look-ups want to see the request."""
        return {**asgi_scope(self.request, None, ""), **self.asker.origin}

    jar: Jar | None = field(default=None, repr=False)
    """Cookies that the server keeps in place of a sandboxed page's browser."""

    @property
    def base(self) -> str:
        """See above."""
        return f"{self.address.base}~{self.sealed}/" if self.sealed else self.address.base

    @property
    def on_path(self) -> bool:
        """Does the app share our origin?"""
        return self.address.method is not Method.SUBDOMAIN

    @property
    def is_navigation(self) -> bool:
        """Does a person want to see this as a page? Browsers say so; of older ones the Accept header tells."""
        named = self.request.named
        mode = named.get(b"sec-fetch-mode")
        if mode is not None:
            return mode == b"navigate"
        return self.request.method in (b"GET", b"HEAD") and b"text/html" in named.get(b"accept", b"")

    @property
    def is_top_level(self) -> bool:
        """Is it the page of a window, not of a frame in another page?"""
        return self.request.named.get(b"sec-fetch-dest") == b"document"

    @property
    def url(self) -> str:
        """The whole URL that was asked for."""
        return f"{self.outside}{self.address.base[:-1]}{self.rest.decode('latin-1')}"


def split_sealed(rest: bytes) -> tuple[str, bytes]:
    """The sealed segment at the beginning of what follows an app's base path, and the rest behind it."""
    found = _SEALED.match(rest)
    return (found[1].decode(), rest[found.end() :]) if found else ("", rest)


def believable(headers: Headers, client: tuple[str, int] | None, scheme: str) -> dict[str, object]:
    """The parts of an ASGI scope that trusted reverse proxies have a say in."""
    return {
        "type": "http",
        "scheme": scheme,
        "headers": [(name.lower(), value) for name, value in headers],
        "client": client,
    }


def asgi_scope(request: RequestHead, client: tuple[str, int] | None, scheme: str) -> dict[str, object]:
    """As the server's own look-ups want to see a request."""
    path, _, query = request.target.partition(b"?")
    return {
        **believable(request.headers, client, scheme),
        "http_version": f"1.{request.minor}",
        "method": request.method.decode("ascii"),
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "server": None,
    }

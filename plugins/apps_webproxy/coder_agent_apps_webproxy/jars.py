"""Cookies of apps whose pages run in a sandbox. Browsers neither send nor keep them there, so the server does: a jar
for each visitor and app, in memory, bounded, gone when the server restarts. The browser of such a page never sees them;
what its scripts may read (no HttpOnly) is handed to them in the page (html.py). Source: RFC 6265 §5.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from . import hygiene
from .http1 import Headers

TOLD = b"Coder-App-Cookies"
"""The header by which a page's scripts learn of them (below.js)."""
MAX_JARS = 256
MAX_COOKIES = 32
"""In a jar. Browsers keep 50 at least (RFC 6265 §6.1)."""
MAX_COOKIE = 4096
MAX_BYTES = 16 << 10
"""Of a jar, so that all of them stay below 4 MB."""


@dataclass(frozen=True, slots=True)
class _Cookie:
    name: bytes
    value: bytes
    path: bytes
    hidden: bool
    expires: float
    """Seconds since 1970."""


@dataclass(slots=True)
class Jar:
    """The cookies of one visitor at one app. Paths are the app's own, without our prefix."""

    _cookies: dict[tuple[bytes, bytes], _Cookie] = field(default_factory=dict)

    def keep(self, headers: Headers, target: bytes, now: float) -> Headers:
        """Take the cookies out of an answer to `target`. What scripts may read of them stands in a header of ours."""
        found = [value for name, value in headers if name.lower() == b"set-cookie"]
        if not found:
            return headers
        for value in found:
            self._store(value, target, now)
        told = json.dumps(self.readable(target, now)).encode()
        return [*(field for field in headers if field[0].lower() != b"set-cookie"), (TOLD, told)]

    def header(self, target: bytes, now: float) -> bytes:
        """The Cookie header for a request; empty if there is none to send."""
        return b"; ".join(cookie.name + b"=" + cookie.value for cookie in self._sent(target, now))

    def readable(self, target: bytes, now: float) -> tuple[tuple[str, str], ...]:
        """Name and value of those that scripts of a page may read."""
        return tuple(
            (cookie.name.decode("latin-1"), cookie.value.decode("latin-1"))
            for cookie in self._sent(target, now)
            if not cookie.hidden
        )

    def _sent(self, target: bytes, now: float) -> list[_Cookie]:
        path = target.partition(b"?")[0]
        found = [cookie for cookie in self._cookies.values() if cookie.expires > now and _covers(cookie.path, path)]
        return sorted(found, key=lambda cookie: -len(cookie.path))

    def _store(self, value: bytes, target: bytes, now: float) -> None:
        cookie = _parse(value, target, now)
        if cookie is None:
            return
        key = (cookie.name, cookie.path)
        self._cookies.pop(key, None)
        if cookie.expires > now:
            self._cookies[key] = cookie
        while len(self._cookies) > MAX_COOKIES or sum(map(_size, self._cookies.values())) > MAX_BYTES:
            del self._cookies[next(iter(self._cookies))]


class Jars:
    """Those used last."""

    def __init__(self) -> None:
        self._jars: OrderedDict[Hashable, Jar] = OrderedDict()

    def of(self, key: Hashable) -> Jar:
        """The jar of a visitor at an app."""
        jar = self._jars.setdefault(key, Jar())
        self._jars.move_to_end(key)
        while len(self._jars) > MAX_JARS:
            self._jars.popitem(last=False)
        return jar


def _parse(value: bytes, target: bytes, now: float) -> _Cookie | None:
    pair, *rest = value.split(b";")
    name, equals, text = (part.strip(b" \t") for part in pair.partition(b"="))
    if not equals or not name or hygiene.is_ours(name) or len(value) > MAX_COOKIE:
        return None
    path, hidden, expires, age = _folder(target), False, float("inf"), None
    for part in rest:
        key, _, said = (piece.strip(b" \t") for piece in part.partition(b"="))
        match key.lower():
            case b"path":
                path = said if said.startswith(b"/") else path
            case b"httponly":
                hidden = True
            case b"max-age" if said.lstrip(b"-").isdigit():
                age = int(said)
            case b"expires":
                expires = _moment(said)
    return _Cookie(name, text, path, hidden, now + age if age is not None else expires)


def _moment(text: bytes) -> float:
    try:
        return parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return float("inf")


def _folder(target: bytes) -> bytes:
    """The path of a cookie that names none. Source: RFC 6265 §5.1.4."""
    folder = target.partition(b"?")[0].rpartition(b"/")[0]
    return folder if folder.startswith(b"/") else b"/"


def _covers(path: bytes, asked: bytes) -> bool:
    return asked == path or (asked.startswith(path) and (path.endswith(b"/") or asked[len(path) :][:1] == b"/"))


def _size(cookie: _Cookie) -> int:
    return len(cookie.name) + len(cookie.value) + len(cookie.path)

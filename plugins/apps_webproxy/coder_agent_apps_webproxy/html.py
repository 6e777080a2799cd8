"""Pages of apps below a path: what they name from the root (``/static/x.js``) is moved below the app's own path.

Three parts. Attributes of tags are rewritten as the page passes, without a parser: only ``src``, ``href``, ``action``,
``formaction``, ``poster``, ``data`` and ``srcset`` with a value that begins with one slash. An import map goes first
into the page; by it the browser itself moves what modules import, in whatever way they compute it. And a script
(below.js) moves what scripts ask for later (fetch, XMLHttpRequest, WebSocket, EventSource, Worker, history, elements),
for a WebSocket has no Referer by which the server could tell whose it is. In a sandbox, where browsers refuse
`localStorage`, cookies and the like with an exception, it lends the page a storage that lasts as long as the page.

What style sheets name is left alone: the server finds it by its Referer (proxy.py), which is the style sheet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .http1 import Body, ResponseHead
from .policies import hash_source

_ATTRIBUTE = re.compile(
    rb"""([\s"'](?:src|href|action|formaction|poster|data|srcset|imagesrcset)\s*=\s*["']?)/(?!/)([^\s"'>]*)""",
    re.IGNORECASE,
)
_TAG = re.compile(rb"<[A-Za-z](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_CREDENTIALS = re.compile(rb"""(\scrossorigin\s*=\s*["']?)use-credentials""", re.IGNORECASE)
_OPEN = re.compile(rb"<(?:[A-Za-z]|$)")
_HEAD = re.compile(rb"<head(?:\s[^>]*)?>", re.IGNORECASE)
_DOCTYPE = re.compile(rb"\s*(?:<!doctype[^>]*>)?\s*(?:<html[^>]*>)?", re.IGNORECASE)
MAX_TAG = 16 << 10
"""Bytes that are held back for a tag to end."""


def wants_rewriting(response: ResponseHead) -> bool:
    """Is it a whole page in HTML that we can read?"""
    kind = response.named.get(b"content-type", b"").partition(b";")[0].strip().lower()
    packed = response.named.get(b"content-encoding", b"identity").lower()
    whole = response.body is not Body.NONE and response.status != 206
    return whole and kind == b"text/html" and packed in (b"", b"identity")


@dataclass(frozen=True, slots=True)
class Preamble:
    """What goes first into a page at `base`. `inside`: hosts by which the app may call itself; `cookies`: what scripts
    in a sandbox may read (name, value)."""

    base: str
    sandboxed: bool
    inside: Sequence[str] = ()
    cookies: Sequence[tuple[str, str]] = ()

    def texts(self) -> tuple[bytes, bytes]:
        """The import map, and the script."""
        # The longer key wins: what is below the base already stays.
        imports = json.dumps({"imports": {"/": self.base, self.base: self.base}})
        given = (self.base, self.sandboxed, list(self.inside), [list(cookie) for cookie in self.cookies])
        call = ",".join(json.dumps(value) for value in given).replace("<", "\\u003c")
        return imports.encode(), f"({_script()})({call})".encode()

    def elements(self) -> bytes:
        """Both as they stand in the page."""
        return b'<script type="importmap">%b</script><script>%b</script>' % self.texts()

    def sources(self) -> list[bytes]:
        """What a content security policy must allow for them (policies.py)."""
        return [hash_source(text) for text in self.texts()]


@cache
def _script() -> str:
    """below.js without its comments and indentation."""
    text = files(__package__).joinpath("below.js").read_text("utf-8")
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("//"))


class HtmlBelow:
    """Feed it a page; it returns the page as it must be below the preamble's base."""

    def __init__(self, preamble: Preamble) -> None:
        self.preamble = preamble
        self._base = preamble.base.encode("latin-1")
        self._anonymous = preamble.sandboxed
        self._script: bytes | None = preamble.elements()
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be passed on so far. A tag that has not ended is held back."""
        data = self._held + data
        cut = data.rfind(b"<")
        if cut >= 0 and len(data) - cut < MAX_TAG and _OPEN.match(data, cut) and not _TAG.match(data, cut):
            data, self._held = data[:cut], data[cut:]
        else:
            self._held = b""
        return self._begin(data) if self._script is not None else self._tags(data)

    def end(self) -> bytes:
        """The rest."""
        data, self._held = self._held, b""
        if self._script is not None:
            data, self._script = self._insert(data), None
        return self._tags(data)

    def _begin(self, data: bytes) -> bytes:
        if _HEAD.search(data) is None and len(data) + len(self._held) < 1024:
            self._held = data + self._held  # the head may still come
            return b""
        whole = self._insert(data)
        script = self._script or b""
        self._script = None
        before, mark, after = whole.partition(script)
        return self._tags(before) + mark + self._tags(after)

    def _insert(self, data: bytes) -> bytes:
        """The script behind ``<head>``, else at the beginning, where it opens a head by itself."""
        found = _HEAD.search(data) or _DOCTYPE.match(data)
        at = found.end() if found is not None else 0
        return data[:at] + (self._script or b"") + data[at:]

    def _tags(self, data: bytes) -> bytes:
        return _TAG.sub(self._tag, data)

    def _tag(self, found: re.Match[bytes]) -> bytes:
        tag = _ATTRIBUTE.sub(self._attribute, found[0])
        # In a sandbox every answer is another origin's, and with credentials none could be read.
        return _CREDENTIALS.sub(rb"\1anonymous", tag) if self._anonymous else tag

    def _attribute(self, found: re.Match[bytes]) -> bytes:
        path = b"/" + found[2]
        return found[0] if path.startswith(self._base) else found[1] + self._base + found[2]

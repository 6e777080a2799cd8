"""What a visitor sees instead of an app: what happened, and what to do. HTML for browsers, JSON for programs.

No script, no picture, nothing from elsewhere, and no Referer: a link to the dashboard must not look like a request that
escaped from the app whose address this page was shown at.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus

from .http1 import Headers, RequestHead, write_head

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:38rem;margin:12vh auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}p.code{color:#767676;margin:0}nav a{display:inline-block;margin:.5rem .8rem 0 0;"
    "padding:.45em 1em;border:1px solid currentColor;border-radius:6px;color:inherit;text-decoration:none}"
    "code{font:14px ui-monospace,monospace;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}p.code{color:#999}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'none'; base-uri 'none'"


@dataclass(frozen=True, slots=True)
class Notice:
    """An answer of our own. `todo`: what the visitor, or the app's owner, can do. `actions`: links, (label,
    address)."""

    status: int
    title: str
    detail: str
    todo: str = ""
    actions: Sequence[tuple[str, str]] = ()


def answer(notice: Notice, request: RequestHead | None, *, keep_alive: bool, extra: Headers | None = None) -> bytes:
    """The whole response; without a body for HEAD."""
    wants_page = request is not None and b"text/html" in request.named.get(b"accept", b"")
    body, kind = (_html(notice), b"text/html; charset=utf-8") if wants_page else (_json(notice), b"application/json")
    headers: Headers = [
        (b"Content-Type", kind),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Content-Security-Policy", CONTENT_POLICY.encode()),
        (b"Referrer-Policy", b"no-referrer"),
        (b"X-Content-Type-Options", b"nosniff"),
        *(extra or ()),
    ]
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    head = write_head(status_line(notice.status), headers)
    return head if request is not None and request.method == b"HEAD" else head + body


def redirect(status: int, location: str, *, keep_alive: bool, extra: Headers | None = None) -> bytes:
    """A response that leads elsewhere. No Referer goes along: it may hold a key, or look like an escaped request."""
    headers: Headers = [
        (b"Location", location.encode("latin-1", "replace")),
        (b"Content-Length", b"0"),
        (b"Cache-Control", b"no-store"),
        (b"Referrer-Policy", b"no-referrer"),
        *(extra or ()),
    ]
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    return write_head(status_line(status), headers)


def status_line(status: int) -> bytes:
    """``HTTP/1.1 404 Not Found``."""
    try:
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    except ValueError:
        return b"HTTP/1.1 %d " % status


def _html(notice: Notice) -> bytes:
    links = "".join(f'<a href="{escape(to, quote=True)}">{escape(label)}</a>' for label, to in notice.actions)
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(notice.title)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f'<style>{_STYLE}</style></head><body><main><p class="code">{notice.status}</p>'
        f"<h1>{escape(notice.title)}</h1><p>{escape(notice.detail)}</p>"
        + (f"<p>{escape(notice.todo)}</p>" if notice.todo else "")
        + (f"<nav>{links}</nav>" if links else "")
        + "</main></body></html>\n"
    )
    return text.encode()


def _json(notice: Notice) -> bytes:
    detail = f"{notice.detail} {notice.todo}".strip()
    return json.dumps({"message": notice.title, "detail": detail}).encode() + b"\n"

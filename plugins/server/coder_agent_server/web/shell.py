"""What every page shares: head, policy, bar, and the data that its script begins with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from starlette.responses import HTMLResponse, Response

from ..auth import Principal
from ..deployment import Deployment
from ..documents import Document
from .static_files import address

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not "no-referrer": browsers would then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
MODULES = ("dom.js", "feed.js", "words.js", "parts.js", "page.js")
"""What every live page loads; named in its head, so that browsers need not find out one by one."""
PLACES = (("/", "Workspaces"), ("/network", "Network"), ("/account", "Account"))


def page(
    server: Deployment,
    title: str,
    body: str,
    *,
    principal: Principal | None = None,
    script: str = "",
    more: Sequence[str] = (),
    data: Document | None = None,
    here: str = "",
    status: int = 200,
) -> Response:
    """A page. `script` is the module that makes it live and `more` what that imports beside MODULES; `data` is what it
    begins with. `here`: its place in the bar."""
    name = escape(server.options.name)
    bar = _bar(server, principal, here)
    html = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · {name}</title>"
        f'<link rel=icon href="{address("icon.svg")}" type="image/svg+xml">'
        f'<link rel=stylesheet href="{address("style.css")}">'
        f"{_scripts(script, more)}</head><body>"
        '<a class=skip href="#main">Skip to the content</a>'
        f"{bar}<main id=main tabindex=-1>{body}</main>{_data(data)}</body></html>"
    )
    return HTMLResponse(html, status, HEADERS)


def _bar(server: Deployment, principal: Principal | None, here: str) -> str:
    name = escape(server.options.name)
    if principal is None:
        return f'<header class=bar><a class=brand href="/">{name}</a></header>'
    links = "".join(
        f'<a href="{href}"{" aria-current=page" if href == here else ""}>{title}</a>' for href, title in PLACES
    )
    return (
        f'<header class=bar><a class=brand href="/">{name}</a><nav aria-label="Pages">{links}</nav>'
        "<span id=feed class=feed role=status></span>"
        f'<form class=out method=post action="/logout"><span class=user>{escape(principal.user.username)}</span>'
        "<button class=plain>Sign out</button></form></header>"
    )


def _scripts(script: str, more: Sequence[str]) -> str:
    if not script:
        return ""
    preloads = "".join(f'<link rel=modulepreload href="{address(name)}">' for name in (*MODULES, *more))
    return f'{preloads}<script type=module src="{address(script)}"></script>'


def _data(data: Document | None) -> str:
    """A block that browsers do not run. ``<`` is escaped, or a name could end the block."""
    if data is None:
        return ""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id=data>{text}</script>'

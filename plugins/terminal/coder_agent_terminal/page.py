"""The terminal's page: its HTML, its policy and its two files. The terminal itself is xterm.js, from npm."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from html import escape
from importlib.resources import files

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from coder_agent.hooks.web import AgentPlace

_FILES = {"terminal.js": "text/javascript; charset=utf-8", "terminal.css": "text/css; charset=utf-8"}
MODULES = "/static/modules/@xterm/"
"""Where the server has what scripts/web_modules.py fetched."""


def terminal_page(place: AgentPlace, command: str, *, ask: bool) -> Response:
    """The page of one workspace's terminals. `ask`: let the visitor agree before `command` runs."""
    nonce = secrets.token_urlsafe(18)
    label = escape(place.label)
    html = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{label} · terminal</title>"
        f'<meta name="style-nonce" nonce="{nonce}">'
        '<link rel=icon href="/favicon.ico">'
        f'<link rel=stylesheet href="{MODULES}xterm/css/xterm.css">'
        f'<link rel=stylesheet href="{_address("terminal.css")}">'
        f'<script type=module src="{_address("terminal.js")}"></script></head><body>'
        "<header class=bar>"
        f'<a class=place href="/@{escape(place.owner_name)}/{escape(place.workspace_name)}">{label}</a>'
        '<span id=path class=path role=status aria-label="Path"></span>'
        "<span id=state class=state role=status>Starting…</span>"
        "<button id=act class=act type=button hidden></button>"
        "</header>"
        f'<main id=terminal aria-label="Terminal of {label}" data-agent="{place.agent_id}" data-label="{label}"'
        f' data-command="{escape(command)}" data-ask="{"yes" if ask and command else ""}" data-modules="{MODULES}">'
        "<noscript>The terminal needs JavaScript. In a shell: "
        f"<code>coder terminal {label}</code></noscript></main></body></html>"
    )
    return HTMLResponse(html, headers=_headers(nonce))


def missing_page(owner: str, place: str) -> Response:
    """There is no such workspace, or not for this visitor."""
    html = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1"><title>Not found · terminal</title>'
        f'<link rel=stylesheet href="{_address("terminal.css")}"></head><body class=words><main>'
        f"<h1>No such workspace</h1><p>There is no workspace <code>{escape(owner)}/{escape(place)}</code>, or you have"
        " no access to it. A workspace with several agents needs the agent's name: <code>workspace.agent</code>.</p>"
        '<p><a href="/">All workspaces</a></p></main></body></html>'
    )
    return HTMLResponse(html, 404, _headers(""))


def _headers(nonce: str) -> dict[str, str]:
    # xterm.js writes its own style elements; they carry the nonce. No script is inline.
    style = f"style-src 'self' 'nonce-{nonce}'" if nonce else "style-src 'self'"
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; {style}; img-src 'self'; connect-src 'self'; form-action 'none';"
            " frame-ancestors 'none'; base-uri 'none'"
        ),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


@cache
def _content(name: str) -> tuple[bytes, str]:
    body = (files(__package__) / "static" / name).read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:16]


def _address(name: str) -> str:
    return f"/terminal-files/{name}?{_content(name)[1]}"


def asset(name: str, known: str) -> Response:
    """One of the two files; `known` is the If-None-Match header."""
    if name not in _FILES:
        return PlainTextResponse("There is no such file.\n", 404)
    body, digest = _content(name)
    headers = {"Cache-Control": "public, max-age=86400", "ETag": f'"{digest}"', "X-Content-Type-Options": "nosniff"}
    if headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=_FILES[name])

"""The few HTML pages: status, sign-in, and the token that `coder login` asks for. No scripts at all."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from urllib.parse import quote, urlsplit

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Principal, caller_ip, refuse_cross_site
from ..bodies import read_form
from ..deployment import Deployment, deployment
from ..store import accounts
from .access import maybe_signed_in
from .keys import KEY_LIFETIME
from .users import WRONG_LOGIN, LoginBody, set_session_cookie, sign_in

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color:#222}"
    "code,output{font:14px ui-monospace,monospace;background:#f2f2f2;padding:.2em .4em;border-radius:4px}"
    "output{display:block;overflow-wrap:anywhere;user-select:all}"
    "table{border-collapse:collapse}th{text-align:left;padding-right:2rem;font-weight:600}"
    "label{display:block;margin:.8rem 0}input{font:inherit;display:block;width:100%;box-sizing:border-box;padding:.3em}"
    "button{font:inherit;padding:.4em 1em}.fault{color:#a00}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}code,output{background:#2a2a2a}"
    "a{color:#8bf}.fault{color:#f99}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none';"
        " base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LoginForm(LoginBody):
    """What the sign-in form sends."""

    next: str = "/"


class NoForm(BaseModel):
    """A form with a button and nothing else."""


def routes() -> list[BaseRoute]:
    """Routes at the root."""
    return [
        Route("/", status, methods=["GET"]),
        Route("/login", login_page, methods=["GET"]),
        Route("/login", submit_login, methods=["POST"]),
        Route("/cli-auth", cli_auth_page, methods=["GET"]),
        Route("/cli-auth", make_cli_token, methods=["POST"]),
    ]


async def status(request: Request) -> Response:
    """What this is, and whether it is busy."""
    server = deployment(request)
    async with server.database.read() as session:
        users = await accounts.user_count(session)
    principal = await maybe_signed_in(request)
    rows = {
        "Version": server.version,
        "Access URL": server.access_url,
        "Connected agents": str(len(server.presence)),
        "Connected clients": str(len(server.clients)),
    }
    table = "".join(f"<tr><th scope=row>{escape(k)}<td>{escape(v)}" for k, v in rows.items())
    return _page(server.options.name, f"<table>{table}</table>{_hint(server, users, principal)}")


def _hint(server: Deployment, users: int, principal: Principal | None) -> str:
    command = f"<p><code>coder login {escape(server.access_url)}</code></p>"
    if not users:
        return f"<p>This deployment has no users yet. Whoever is first becomes its owner:</p>{command}"
    if principal is None:
        return f'<p><a href="/login">Sign in</a>, or in a terminal:</p>{command}'
    return f'<p>Signed in as {escape(principal.user.username)}. <a href="/cli-auth">A token for the terminal</a></p>'


async def login_page(request: Request) -> Response:
    """The sign-in form."""
    target = local_path(request.query_params.get("next") or request.query_params.get("redirect") or "/")
    if await maybe_signed_in(request) is not None:
        return RedirectResponse(target, 303)
    return _login_form(target)


async def submit_login(request: Request) -> Response:
    """The filled-in form."""
    server = deployment(request)
    server.login_limit.check(caller_ip(request))
    refuse_cross_site(request, server.access_url)
    form = await read_form(request, LoginForm)
    target = local_path(form.next)
    token = await sign_in(server, form)
    if token is None:
        return _login_form(target, fault=WRONG_LOGIN, email=form.email, status=401)
    response = RedirectResponse(target, 303)
    set_session_cookie(server, response, token)
    return response


async def cli_auth_page(request: Request) -> Response:
    """`coder login` sends people here for a token. Making one takes a click: a link alone shall change nothing."""
    principal = await maybe_signed_in(request)
    if principal is None:
        return RedirectResponse(f"/login?next={quote('/cli-auth')}", 303)
    body = (
        f"<p>Signed in as {escape(principal.user.username)}.</p>"
        '<form method=post action="/cli-auth"><button>Make a session token</button></form>'
    )
    return _page("Session token", body)


async def make_cli_token(request: Request) -> Response:
    """Make a key and show it, this once."""
    server = deployment(request)
    principal = await maybe_signed_in(request)
    if principal is None:
        return RedirectResponse(f"/login?next={quote('/cli-auth')}", 303)
    refuse_cross_site(request, server.access_url)
    await read_form(request, NoForm)
    async with server.database.write() as session:
        token = await accounts.add_key(session, principal.user, KEY_LIFETIME, server.clock(), login_type="password")
    return _page(
        "Session token", f"<p>Paste this where <code>coder login</code> asks:</p><output>{token.text}</output>"
    )


def local_path(target: str) -> str:
    """Only places on this server may be returned to: anything else becomes ``/``."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not target.startswith("/") or target.startswith(("//", "/\\")):
        return "/"
    return target if target.isprintable() else "/"


def _login_form(target: str, *, fault: str = "", email: str = "", status: int = 200) -> Response:
    body = (
        (f"<p class=fault role=alert>{escape(fault)}</p>" if fault else "")
        + '<form method=post action="/login">'
        + f'<input type=hidden name=next value="{escape(target)}">'
        + "<label>E-mail <input type=email name=email autocomplete=username required autofocus "
        + f'value="{escape(email)}"></label>'
        + "<label>Password <input type=password name=password autocomplete=current-password required></label>"
        + "<button>Sign in</button></form>"
    )
    return _page("Sign in", body, status=status)


def _page(title: str, body: str, *, status: int = 200) -> Response:
    html = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{body}"
    )
    return HTMLResponse(html, status, _HEADERS)

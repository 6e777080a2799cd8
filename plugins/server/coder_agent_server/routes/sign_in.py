"""Getting in: the first account, signing in and out, and the token that `coder login` asks for. Without scripts."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import caller_ip, refuse_cross_site
from ..bodies import read_form
from ..deployment import Deployment, deployment
from ..problems import Problem, from_validation
from ..store import accounts
from ..web.shell import page
from . import users
from .access import maybe_signed_in
from .audit import audit
from .keys import KEY_LIFETIME
from .users import WRONG_LOGIN, LoginBody, NewUserBody, make_user, set_session_cookie, sign_in

LEADS_TO_APP = re.compile(r"/api/v2/applications/|/@[^/]+/[^/]+/(?:apps|ports)/")
"""Targets of a sign-in from which people go on to an app: on a host of its own, or to where that sends them."""
URL_CHARACTERS = ":/%#?=@[]!$&'()*+,;~"
"""What stays as it is in the URL of a redirect, as Starlette has it."""


class LoginForm(LoginBody):
    """What the sign-in form sends."""

    next: str = "/"


class FirstUserForm(BaseModel):
    """What the set-up form sends; checked as the API's body once it is here, so that its faults can be shown."""

    username: str = ""
    email: str = ""
    password: str = ""


class NoForm(BaseModel):
    """A form with a button and nothing else."""


def routes() -> list[BaseRoute]:
    """Routes at the root."""
    return [
        Route("/setup", setup_page, methods=["GET"]),
        Route("/setup", submit_setup, methods=["POST"]),
        Route("/login", login_page, methods=["GET"]),
        Route("/login", submit_login, methods=["POST"]),
        Route("/logout", submit_logout, methods=["POST"]),
        Route("/cli-auth", cli_auth_page, methods=["GET"]),
        Route("/cli-auth", make_cli_token, methods=["POST"]),
    ]


# ---------------------------------------------------------------- the first account


async def setup_page(request: Request) -> Response:
    """The form for the first account, while there is none."""
    if await _has_users(deployment(request)):
        return RedirectResponse("/login", 303)
    return _setup_form(deployment(request), FirstUserForm())


async def submit_setup(request: Request) -> Response:
    """Make the first account, and sign it in."""
    server = deployment(request)
    server.login_limit.check(caller_ip(request))
    refuse_cross_site(request, server.access_url)
    form = await read_form(request, FirstUserForm)
    try:
        user = await make_user(server, NewUserBody.model_validate(form.model_dump()), only_if_first=True)
    except ValidationError as exc:
        return _setup_form(server, form, from_validation(exc))
    except Problem as problem:
        return _setup_form(server, form, problem)
    audit(request, "create", "user", user.username, 201, user.username)
    token = await sign_in(server, LoginBody(email=form.email, password=form.password))
    response = RedirectResponse("/" if token is not None else "/login", 303)
    if token is not None:
        set_session_cookie(server, response, token)
    return response


def _setup_form(server: Deployment, form: FirstUserForm, problem: Problem | None = None) -> Response:
    faults = {} if problem is None else dict(problem.validations)
    whole = problem.message if problem is not None and not faults else ""
    body = (
        f"<h1>Set up {escape(server.options.name)}</h1>"
        "<p>This server has no users yet. Whoever makes the first account owns the deployment.</p>"
        f"{_alert(whole)}"
        '<form method=post action="/setup">'
        + _field("Username", "username", form.username, fault=faults.get("username", ""), autofocus=True)
        + _field("E-mail", "email", form.email, kind="email", fault=faults.get("email", ""), autocomplete="email")
        + _field("Password", "password", kind="password", fault=faults.get("password", ""), autocomplete="new-password")
        + "<button class=primary>Create the account</button></form>"
        f"{_command(server, 'Or in a terminal:')}"
    )
    return _narrow(server, "Set up", body, 200 if problem is None else problem.status)


# ---------------------------------------------------------------- signing in and out


async def login_page(request: Request) -> Response:
    """The sign-in form."""
    target = local_path(request.query_params.get("next") or request.query_params.get("redirect") or "/")
    if await maybe_signed_in(request) is not None:
        return RedirectResponse(target, 303)
    server = deployment(request)
    if not await _has_users(server):
        return RedirectResponse("/setup", 303)
    return _login_form(server, target)


async def submit_login(request: Request) -> Response:
    """The filled-in form."""
    server = deployment(request)
    server.login_limit.check(caller_ip(request))
    refuse_cross_site(request, server.access_url)
    form = await read_form(request, LoginForm)
    target = local_path(form.next)
    token = await sign_in(server, form)
    audit(request, "login", "user", form.email, 401 if token is None else 201, form.email if token else "")
    if token is None:
        return _login_form(server, target, fault=WRONG_LOGIN, email=form.email, status=401)
    response = _onwards(server, target) if LEADS_TO_APP.match(target) else RedirectResponse(target, 303)
    set_session_cookie(server, response, token)
    return response


def _onwards(server: Deployment, target: str) -> Response:
    """The way to an app, which may lead to other hosts: Chromium does not follow a form's redirects to where the
    form's page may send none (``form-action``), but goes anywhere from a page that was loaded."""
    response = _narrow(
        server, "Signed in", f'<h1>You are signed in</h1><p><a href="{escape(target)}">Go on</a></p>', 200
    )
    response.headers["Refresh"] = f"0; url={quote(target, safe=URL_CHARACTERS)}"
    return response


async def submit_logout(request: Request) -> Response:
    """The button in the bar."""
    done = RedirectResponse("/login", 303)
    if await maybe_signed_in(request) is not None:
        ended = await users.logout(request)
        done.raw_headers += [header for header in ended.raw_headers if header[0] == b"set-cookie"]
    return done


def _login_form(server: Deployment, target: str, *, fault: str = "", email: str = "", status: int = 200) -> Response:
    body = (
        f"<h1>Sign in to {escape(server.options.name)}</h1>{_alert(fault)}"
        '<form method=post action="/login">'
        f'<input type=hidden name=next value="{escape(target)}">'
        + _field("E-mail", "email", email, kind="email", autocomplete="username", autofocus=not email)
        + _field("Password", "password", kind="password", autocomplete="current-password", autofocus=bool(email))
        + f"<button class=primary>Sign in</button></form>{_command(server, 'For the terminal:')}"
    )
    return _narrow(server, "Sign in", body, status)


# ---------------------------------------------------------------- a token for `coder login`


async def cli_auth_page(request: Request) -> Response:
    """`coder login` sends people here for a token. Making one takes a click: a link alone shall change nothing."""
    principal = await maybe_signed_in(request)
    if principal is None:
        return RedirectResponse(f"/login?next={quote('/cli-auth')}", 303)
    server = deployment(request)
    body = (
        f"<h1>Session token</h1><p>Signed in as {escape(principal.user.username)}."
        " <code>coder login</code> waits for a token; this makes one that is good for seven days.</p>"
        '<form method=post action="/cli-auth"><button class=primary>Make a session token</button></form>'
        f"{_command(server, 'What asks for it:')}"
    )
    return page(server, "Session token", f"<div class=narrow>{body}</div>", principal=principal, script="plain.js")


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
    body = (
        "<h1>Session token</h1><p>Paste this where <code>coder login</code> asks. It is not shown again.</p>"
        f"<output>{token.text}</output>"
    )
    return page(
        server,
        "Session token",
        f"<div class=narrow>{body}</div>",
        principal=principal,
        script="plain.js",
    )


def local_path(target: str) -> str:
    """Only places on this server may be returned to: anything else becomes ``/``."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc or not target.startswith("/") or target.startswith(("//", "/\\")):
        return "/"
    return target if target.isprintable() else "/"


# ---------------------------------------------------------------- pieces


async def _has_users(server: Deployment) -> bool:
    async with server.database.read() as session:
        return bool(await accounts.user_count(session))


def _narrow(server: Deployment, title: str, body: str, status: int) -> Response:
    facts = f"<footer class=facts>coder server {escape(server.version)} · {escape(server.access_url)}</footer>"
    return page(server, title, f"<div class=narrow>{body}{facts}</div>", script="plain.js", status=status)


def _alert(fault: str) -> str:
    return f"<p class=fault role=alert>{escape(fault)}</p>" if fault else ""


def _field(
    label: str,
    name: str,
    value: str = "",
    *,
    kind: str = "text",
    fault: str = "",
    autocomplete: str = "username",
    autofocus: bool = False,
) -> str:
    problem = f' aria-invalid=true aria-describedby="{name}-fault"' if fault else ""
    said = f'<span class=fault id="{name}-fault">{escape(fault)}</span>' if fault else ""
    return (
        f"<label>{label}<input type={kind} name={name} required autocomplete={autocomplete}"
        f'{" autofocus" if autofocus else ""} value="{escape(value)}"{problem}>{said}</label>'
    )


def _command(server: Deployment, lead: str) -> str:
    command = f"coder login {server.access_url}"
    return f"<p class=muted>{lead}</p><p class=line><code data-copy>{escape(command)}</code></p>"

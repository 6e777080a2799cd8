"""The first user, signing in and out, users."""

from __future__ import annotations

import logging

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import TOKEN_NAME, caller_ip
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents.accounts import organization_document, user_document
from ..passwords import password_fault
from ..problems import Problem, invalid
from ..scopes import Need
from ..store import accounts
from ..store.schema import Organization, User
from ..tokens import ApiToken
from .access import owner_only, path_user, signed_in
from .audit import audit
from .names import Email, Name
from .paging import page_of

logger = logging.getLogger("coder_agent.server")

WRONG_LOGIN = "Incorrect email or password."


class NewUserBody(BaseModel):
    """`trial` and what belongs to it are part of the stock request and mean nothing here."""

    email: Email
    username: Name
    name: str = ""
    password: str


class LoginBody(BaseModel):
    """A sign-in."""

    email: str = ""
    password: str = ""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/users."""
    return [
        Route("/users/first", first_user_exists, methods=["GET"]),
        Route("/users/first", create_first_user, methods=["POST"]),
        Route("/users/login", login, methods=["POST"]),
        Route("/users/logout", logout, methods=["POST"]),
        Route("/users/authmethods", auth_methods, methods=["GET"]),
        Route("/users", list_users, methods=["GET"]),
        Route("/users", create_user, methods=["POST"]),
        Route("/users/{user}", get_user, methods=["GET"]),
        Route("/users/{user}/organizations", user_organizations, methods=["GET"]),
    ]


async def first_user_exists(request: Request) -> Response:
    """200 when the deployment is set up, 404 when `coder login` shall offer to do it."""
    async with deployment(request).database.read() as session:
        count = await accounts.user_count(session)
    if count == 0:
        raise Problem(404, "The initial user has not been created!")
    return JSONResponse({"message": "The initial user has already been created!"})


async def create_first_user(request: Request) -> Response:
    """Make the owner, once. Whoever comes first gets the deployment: say so in the documentation."""
    server = deployment(request)
    server.login_limit.check(caller_ip(request))
    body = await read_json(request, NewUserBody)
    user = await make_user(server, body, only_if_first=True)
    audit(request, "create", "user", user.username, 201, user.username)
    return JSONResponse({"user_id": str(user.id), "organization_id": str(user.organization_id)}, 201)


async def create_user(request: Request) -> Response:
    """Another account, made by an owner."""
    server = deployment(request)
    principal = await owner_only(request)
    user = await make_user(server, await read_json(request, NewUserBody), only_if_first=False)
    audit(request, "create", "user", user.username, 201, principal)
    return JSONResponse(user_document(user), 201)


async def make_user(server: Deployment, body: NewUserBody, *, only_if_first: bool) -> User:
    """Check and store. Raises Problem 400, 403, 409."""
    fault = password_fault(body.password)
    if fault is not None:
        raise invalid("password", fault)
    password_hash = await server.passwords.hash(body.password)
    async with server.database.write() as session:
        if only_if_first and await accounts.user_count(session):
            raise Problem(403, "The initial user has already been created.")
        new = accounts.NewUser(body.username, body.email, body.name, password_hash, is_owner=only_if_first)
        try:
            return await accounts.add_user(session, new, server.clock())
        except accounts.NameTaken as exc:
            raise Problem(
                409, f"A user with this {exc.field} exists already.", validations=[(exc.field, "Already in use.")]
            ) from exc


async def login(request: Request) -> Response:
    """Exchange a password for a session, as token and as cookie."""
    server = deployment(request)
    server.login_limit.check(caller_ip(request))
    body = await read_json(request, LoginBody)
    token = await sign_in(server, body)
    audit(request, "login", "user", body.email, 401 if token is None else 201, body.email if token else "")
    if token is None:
        raise Problem(401, WRONG_LOGIN)
    response = JSONResponse({"session_token": token.text}, 201)
    set_session_cookie(server, response, token)
    return response


async def sign_in(server: Deployment, body: LoginBody) -> ApiToken | None:
    """A new session, or None. Our own accounts first, then whatever plugins offer."""
    async with server.database.read() as session:
        user = await accounts.find_user_by_email(session, body.email)
    if not await server.passwords.verify(body.password, user.password_hash if user else None):
        user = await _ask_authenticators(server, body)
    if user is None or user.status != "active":
        return None
    async with server.database.write() as session:
        return await accounts.add_key(
            session, user, server.options.session_duration, server.clock(), login_type="password"
        )


async def _ask_authenticators(server: Deployment, body: LoginBody) -> User | None:
    """A plugin vouches for somebody; the account itself must exist here (an owner makes it)."""
    for authenticator in server.authenticators:
        try:
            identity = await authenticator.authenticate(body.email, body.password)
        except Exception:  # somebody else's code, e.g. a directory that is down: the others are asked all the same
            logger.exception("authenticator %r failed", authenticator.name)
            continue
        if identity is not None:
            async with server.database.read() as session:
                return await accounts.find_user(session, identity.username)
    return None


def set_session_cookie(server: Deployment, response: Response, token: ApiToken) -> None:
    """The browser's copy: out of scripts' reach, and not sent along by other sites' forms."""
    response.set_cookie(
        TOKEN_NAME,
        token.text,
        max_age=int(server.options.session_duration.total_seconds()),
        path="/",
        httponly=True,
        samesite="lax",
        secure=server.options.secure_cookie,
    )


async def logout(request: Request) -> Response:
    """End the session that asks, and what hangs on it: keys for apps, open connections."""
    principal = await signed_in(request, Need.READ)
    server = deployment(request)
    async with server.database.write() as session:
        await accounts.delete_key(session, principal.key_id)
        gone = await accounts.delete_app_keys(session, principal.user.id)
    server.revocations.revoked([principal.key_id, *gone], "signed out")
    audit(request, "logout", "user", principal.user.username, 200, principal)
    response = JSONResponse({"message": "Logged out!"})
    response.delete_cookie(TOKEN_NAME, path="/")
    return response


async def auth_methods(request: Request) -> Response:
    """What a login page offers."""
    return JSONResponse(
        {
            "terms_of_service_url": "",
            "password": {"enabled": True},
            "github": {"enabled": False, "default_provider_configured": False},
            "oidc": {"enabled": False, "signInText": "", "iconUrl": ""},
        }
    )


async def list_users(request: Request) -> Response:
    """A page of users; one who is not an owner sees only himself."""
    principal = await signed_in(request)
    if not principal.sees_all:
        return JSONResponse({"users": [user_document(principal.user)], "count": 1})
    limit, offset = page_of(request)
    async with deployment(request).database.read() as session:
        users, count = await accounts.search_users(session, request.query_params.get("q", ""), limit, offset)
    return JSONResponse({"users": [user_document(user) for user in users], "count": count})


async def get_user(request: Request) -> Response:
    """One user."""
    return JSONResponse(user_document(await path_user(request, await signed_in(request, Need.READ))))


async def user_organizations(request: Request) -> Response:
    """The organizations of a user: the default one."""
    user = await path_user(request, await signed_in(request, Need.READ))
    async with deployment(request).database.read() as session:
        organization = await session.get(Organization, user.organization_id)
    return JSONResponse([organization_document(organization)] if organization is not None else [])

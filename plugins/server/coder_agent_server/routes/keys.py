"""Sessions and named tokens of a user."""

from __future__ import annotations

import secrets
from datetime import timedelta

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coder_agent.hooks.web import SCOPE_ALL

from ..bodies import read_json
from ..deployment import deployment
from ..documents.accounts import api_key_document
from ..problems import Problem, invalid, not_found
from ..scopes import OLD_NAMES, SCOPES
from ..store import accounts
from ..store.schema import ApiKey
from .access import path_user, signed_in
from .audit import audit

KEY_LIFETIME = timedelta(days=7)
"""What `coder login --token` and the cli-auth page get. Source: coder docs, default token lifetime 168 h."""
MAX_TOKEN_LIFETIME = timedelta(hours=876_600)
"""Source: coder docs/reference/cli/server.md, --max-token-lifetime (100 years)."""
NANOSECONDS = 1_000_000_000


class NewTokenBody(BaseModel):
    """`lifetime` in nanoseconds; 0 = the default."""

    lifetime: int = 0
    scope: str = "all"
    token_name: str = ""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/users/{user}/keys."""
    return [
        Route("/users/{user}/keys", create_key, methods=["POST"]),
        Route("/users/{user}/keys", list_keys, methods=["GET"]),
        Route("/users/{user}/keys/tokens", create_token, methods=["POST"]),
        Route("/users/{user}/keys/tokens", list_tokens, methods=["GET"]),
        Route("/users/{user}/keys/tokens/tokenconfig", token_config, methods=["GET"]),
        Route("/users/{user}/keys/tokens/{key}", get_key, methods=["GET"]),
        Route("/users/{user}/keys/{key}", get_key, methods=["GET"]),
        Route("/users/{user}/keys/{key}", remove_key, methods=["DELETE"]),
    ]


async def create_key(request: Request) -> Response:
    """A session key for a program, as the cli-auth page and `coder login --token` ask for."""
    user = await path_user(request, await signed_in(request))
    server = deployment(request)
    async with server.database.write() as session:
        token = await accounts.add_key(session, user, KEY_LIFETIME, server.clock(), login_type="password")
    return JSONResponse({"key": token.text}, 201)


async def create_token(request: Request) -> Response:
    """A named token with an end of its own."""
    principal = await signed_in(request)
    user = await path_user(request, principal)
    server = deployment(request)
    body = await read_json(request, NewTokenBody)
    scope = OLD_NAMES.get(body.scope, body.scope or SCOPE_ALL)  # a stock CLI sends an empty one
    if scope not in SCOPES:
        raise invalid("scope", f"This must be one of {', '.join(SCOPES)}.")
    if len(body.token_name) > 64:
        raise invalid("token_name", "At most 64 characters.")
    lifetime = timedelta(seconds=body.lifetime // NANOSECONDS) if body.lifetime else KEY_LIFETIME
    if not timedelta(seconds=1) <= lifetime <= MAX_TOKEN_LIFETIME:
        raise invalid("lifetime", "Between one second and a hundred years, in nanoseconds.")
    async with server.database.write() as session:
        name = body.token_name or secrets.token_hex(5)
        try:
            token = await accounts.add_key(
                session, user, lifetime, server.clock(), login_type="token", token_name=name, scope=scope
            )
        except accounts.NameTaken as exc:
            message = f"A token with name {name!r} already exists."
            raise Problem(409, message, validations=[("token_name", "Already in use.")]) from exc
    audit(request, "create", "api_key", f"{name} ({scope})", 201, principal)
    return JSONResponse({"key": token.text}, 201)


async def token_config(request: Request) -> Response:
    """How long a token may live, in nanoseconds; `coder tokens create` asks first."""
    await path_user(request, await signed_in(request))
    return JSONResponse({"max_token_lifetime": int(MAX_TOKEN_LIFETIME.total_seconds()) * NANOSECONDS})


async def list_keys(request: Request) -> Response:
    """Everything that can act for a user: sessions and named tokens, newest first. Ours, for the account page."""
    user = await path_user(request, await signed_in(request))
    async with deployment(request).database.read() as session:
        found = await accounts.user_keys(session, user.id, tokens_only=False)
    return JSONResponse([api_key_document(key) for key, _ in found])


async def list_tokens(request: Request) -> Response:
    """Named tokens: one's own, or with ``include_all`` everybody's for an owner."""
    principal = await signed_in(request)
    user = await path_user(request, principal)
    everybody = principal.sees_all and request.query_params.get("include_all", "false").lower() in ("true", "1")
    async with deployment(request).database.read() as session:
        found = await accounts.user_keys(session, None if everybody else user.id, tokens_only=True)
    return JSONResponse([{**api_key_document(key), "username": owner.username} for key, owner in found])


async def get_key(request: Request) -> Response:
    """One key, without its secret."""
    return JSONResponse(api_key_document(await _path_key(request)))


async def remove_key(request: Request) -> Response:
    """Revoke a key; whoever uses it is signed out at once."""
    principal = await signed_in(request)
    key = await _path_key(request)
    server = deployment(request)
    async with server.database.write() as session:
        await accounts.delete_key(session, key.id)
    server.revocations.revoked([key.id], "the token was revoked")
    audit(request, "delete", "api_key", key.token_name or key.id, 204, principal)
    return Response(status_code=204)


async def _path_key(request: Request) -> ApiKey:
    user = await path_user(request, await signed_in(request))
    async with deployment(request).database.read() as session:
        key = await accounts.find_user_key(session, user.id, str(request.path_params["key"]))
    if key is None:
        raise not_found()
    return key

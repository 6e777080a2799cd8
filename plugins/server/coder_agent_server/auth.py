"""Who is asking? Tokens of users and of agents, wherever stock programs put them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import HTTPConnection

from coder_agent.hooks.web import SCOPE_ALL

from .problems import Problem
from .store import accounts
from .store.agents import find_agent_by_token
from .store.database import Database
from .store.schema import Agent, ApiKey, User
from .tokens import ApiToken, parse_agent_token, secret_hash

TOKEN_NAME = "coder_session_token"
"""The cookie and the query parameter."""
TOKEN_HEADER = "coder-session-token"


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in user and the key that proves it."""

    user: User
    key_id: str
    key_scope: str = SCOPE_ALL
    expires_at: datetime | None = None

    @property
    def sees_all(self) -> bool:
        """The deployment's owners may see and reach every workspace."""
        return self.user.is_owner

    @property
    def scope(self) -> UUID | None:
        """Whose workspaces are visible: one user's, or with None everybody's."""
        return None if self.sees_all else self.user.id

    def may_use(self, owner_id: UUID) -> bool:
        """May this user see, reach and change what `owner_id` owns?"""
        return self.sees_all or self.user.id == owner_id


def presented_token(connection: HTTPConnection) -> str:
    """The token of a request: cookie, query, header, then Bearer; empty when there is none.

    Stock programs put it into the cookie for WebSockets, into the header elsewhere; some into both.
    Source: coder coderd/httpmw/apikey.go, order of places.
    """
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    return (
        connection.cookies.get(TOKEN_NAME)
        or connection.query_params.get(TOKEN_NAME)
        or connection.headers.get(TOKEN_HEADER)
        or (bearer.strip() if scheme.lower() == "bearer" else "")
    )


def caller_ip(connection: HTTPConnection) -> str:
    """The peer's address, for rate limits and logs."""
    return connection.client.host if connection.client is not None else ""


def refuse_cross_site(connection: HTTPConnection, access_url: str) -> None:
    """Raises Problem 403 for `is_cross_site`."""
    if is_cross_site(connection, access_url):
        raise Problem(403, "This request comes from another site.", detail="The Origin header names another host.")


def is_cross_site(connection: HTTPConnection, access_url: str) -> bool:
    """A browser sends the cookie on its own: what it sends must come from our own pages.

    Only requests that carry the cookie *and* an Origin are concerned; programs send no Origin. Browsers send it with
    every WebSocket and with everything that is not a plain GET (Fetch standard, "append a request Origin header").
    """
    origin = connection.headers.get("origin")
    if not origin or not connection.cookies.get(TOKEN_NAME):
        return False
    if connection.scope["type"] == "http" and connection.scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    allowed = {urlsplit(access_url).netloc.lower(), connection.headers.get("host", "").lower()}
    return urlsplit(origin).netloc.lower() not in allowed


async def user_of(database: Database, token_text: str, now: datetime) -> Principal | None:
    """Whose session or token is this? None for anything that is not valid now."""
    token = ApiToken.parse(token_text)
    if token is None:
        return None
    async with database.read() as session:
        found = await accounts.find_key(session, token.id)
    if found is None:
        return None
    key, user = found
    if not hmac.compare_digest(key.secret_hash, secret_hash(token.secret)):
        return None
    if key.expires_at <= now or user.status != "active":
        return None
    await _touch(database, key, now)
    return Principal(user, key.id, key.scope, key.expires_at)


async def _touch(database: Database, key: ApiKey, now: datetime) -> None:
    if now - key.last_used >= accounts.LAST_USED_STEP:
        async with database.write() as session:
            await accounts.touch_key(session, key.id, now)


async def agent_of(database: Database, token_text: str) -> Agent:
    """Which agent presents this token? Raises Problem 401 in the words that stock agents log."""
    if not token_text:
        raise Problem(401, "Workspace agent not authorized.", detail=f"Cookie or header {TOKEN_NAME!r} is missing.")
    token = parse_agent_token(token_text)
    if token is None:
        raise Problem(401, "Workspace agent token is invalid.", detail="An agent token is a UUID.")
    async with database.read() as session:
        agent = await find_agent_by_token(session, token)
    if agent is None:
        raise Problem(
            401,
            "Workspace agent not authorized.",
            detail="The agent cannot authenticate until the workspace exists; its token may have been replaced.",
        )
    return agent

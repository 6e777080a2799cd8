"""Signed app tokens: a decision that a browser carries for a minute, so that its next requests need no look-up.

A JWT (HS512, header `kid`) in the cookie `coder_signed_app_token`, whose path is the app's. Its claims name the request
(access_method, base_path, app_prefix, username_or_id, workspace_name_or_id, agent_name_or_id, app_slug_or_port),
which must be the very one it is shown for, and the decision. `session` ties it to the session it was made in: signing
out ends it. Source: coder coderd/workspaceapps/token.go, coderd/jwtutils.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from coder_agent.hooks.web import CorsBehavior

from .addresses import AppAddress, Method
from .tickets import Ticket

ALGORITHM = "HS512"
LIFETIME = 60.0
"""Seconds. Source: coder coderd/workspaceapps/token.go, DefaultTokenExpiry."""
MAX_TOKEN = 4096


class SignedTokens:
    """Issues and checks."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hashlib.sha512(b"coder apps, signed tokens\0" + secret).digest()
        self._key = OctKey.import_key(self._secret)
        self._key_id = hashlib.sha256(self._secret).hexdigest()[:16]

    def issue(self, address: AppAddress, ticket: Ticket, credential: str, now: float) -> str:
        """A token for this request, valid with this credential (empty = a visitor without one)."""
        claims: dict[str, Any] = {
            **_request(address),
            "session": self._bind(credential),
            "exp": int(now + LIFETIME),
            "user_id": str(ticket.user_id) if ticket.user_id else None,
            "workspace_id": str(ticket.workspace_id),
            "agent_id": str(ticket.agent_id),
            "app_url": ticket.url,
            "owner": [str(ticket.owner_id), ticket.owner, ticket.workspace, ticket.agent],
            "rules": [ticket.sandboxed, ticket.public, ticket.cors.value],
        }
        header = {"alg": ALGORITHM, "kid": self._key_id}
        return jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])

    def check(self, text: str, address: AppAddress, credential: str, now: float) -> Ticket | None:
        """The decision, if the token is ours, alive, of this session, and for this very request."""
        if len(text) > MAX_TOKEN:
            return None
        try:
            token = jwt.decode(text, self._key, algorithms=[ALGORITHM])
            claims = token.claims
            if token.header.get("kid") != self._key_id or not claims["exp"] > now:
                return None
            if any(claims.get(name) != value for name, value in _request(address).items()):
                return None
            if not hmac.compare_digest(str(claims["session"]), self._bind(credential)):
                return None
            return _ticket(claims)
        except (JoseError, ValueError, TypeError, KeyError):
            return None

    def _bind(self, credential: str) -> str:
        return hmac.new(self._secret, credential.encode(), "sha256").hexdigest()[:32]


def _request(address: AppAddress) -> dict[str, str]:
    return {
        "access_method": address.method.value,
        "base_path": address.base,
        "app_prefix": address.host,
        "username_or_id": address.owner.lower(),
        "workspace_name_or_id": address.workspace.lower(),
        "agent_name_or_id": address.agent.lower(),
        "app_slug_or_port": address.app.lower() if address.method is Method.SUBDOMAIN else address.app,
    }


def _ticket(claims: dict[str, Any]) -> Ticket:
    owner_id, owner, workspace, agent = claims["owner"]
    sandboxed, public, cors = claims["rules"]
    return Ticket(
        url=claims["app_url"],
        agent_id=UUID(claims["agent_id"]),
        workspace_id=UUID(claims["workspace_id"]),
        owner_id=UUID(owner_id),
        owner=owner,
        workspace=workspace,
        agent=agent,
        user_id=UUID(claims["user_id"]) if claims["user_id"] else None,
        sandboxed=bool(sandboxed),
        public=bool(public),
        cors=CorsBehavior(cors),
    )

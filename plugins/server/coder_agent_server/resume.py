"""Resume tokens: a client that reconnects, even after our restart, keeps its peer id and so its tunnels.

A JWT: HS512, header `kid`, claims `sub` (the peer's UUID) and `exp`. Source: coder tailnet/resume.go, coderd/jwtutils.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from joserfc.jwk import OctKey

LIFETIME = timedelta(hours=24)
REFRESH_IN = timedelta(hours=12)
"""Clients ask for the next one at half the lifetime."""
ALGORITHM = "HS512"
MAX_TOKEN_LENGTH = 1024
"""Ours have about 250 characters."""


class InvalidResumeToken(Exception):
    """Not one of ours, or too old."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A fresh token. It is a credential: whoever has it, and may sign in, becomes that peer."""

    text: str
    refresh_in: timedelta
    expires_at: datetime

    def __repr__(self) -> str:
        return f"IssuedToken(expires_at={self.expires_at.isoformat()})"


class ResumeTokens:
    """Signs and checks. `key` is kept with the deployment, so that a restart changes nothing.

    The library is loaded when the first client connects: with its cryptography it has 10 MB.
    """

    def __init__(self, key: bytes, key_id: UUID) -> None:
        self._secret = key
        self._key_id = str(key_id)

    @cached_property
    def _key(self) -> OctKey:
        from joserfc.jwk import OctKey

        return OctKey.import_key(self._secret)

    def issue(self, peer_id: UUID, now: datetime) -> IssuedToken:
        """A token for `peer_id`."""
        from joserfc import jwt

        expires_at = now + LIFETIME
        claims = {"sub": str(peer_id), "exp": int(expires_at.timestamp())}
        text = jwt.encode({"alg": ALGORITHM, "kid": self._key_id}, claims, self._key, algorithms=[ALGORITHM])
        return IssuedToken(text, REFRESH_IN, expires_at)

    def verify(self, text: str, now: datetime) -> UUID:
        """The peer id in `text`. Raises InvalidResumeToken."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        if len(text) > MAX_TOKEN_LENGTH:
            raise InvalidResumeToken("too long")
        try:
            token = jwt.decode(text, self._key, algorithms=[ALGORITHM])
            if token.header.get("kid") != self._key_id:
                raise InvalidResumeToken("signed with another key")
            expires_at, subject = token.claims.get("exp"), token.claims.get("sub")
            if not isinstance(expires_at, int | float) or expires_at <= now.timestamp():
                raise InvalidResumeToken("expired")
            return UUID(str(subject))
        except (JoseError, ValueError, TypeError) as exc:
            raise InvalidResumeToken(type(exc).__name__) from exc

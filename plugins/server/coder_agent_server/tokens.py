"""The secrets we hand out: API keys for users, UUIDs for agents. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import NamedTuple
from uuid import UUID, uuid4

KEY_ID_LENGTH = 10
KEY_SECRET_LENGTH = 22
"""A stock client splits a token at its only ``-`` and expects these lengths. 22 characters carry 130 bits."""

_ALPHABET = string.ascii_letters + string.digits


class ApiToken(NamedTuple):
    """A user's token: ``<id>-<secret>``. The id names the row; the secret proves possession."""

    id: str
    secret: str

    @classmethod
    def generate(cls) -> ApiToken:
        """A new token."""
        return cls(_random_text(KEY_ID_LENGTH), _random_text(KEY_SECRET_LENGTH))

    @classmethod
    def parse(cls, text: str) -> ApiToken | None:
        """Split a presented token; None when it cannot be one of ours."""
        key_id, dash, secret = text.partition("-")
        if not dash or len(key_id) != KEY_ID_LENGTH or len(secret) != KEY_SECRET_LENGTH or not text.isascii():
            return None
        return cls(key_id, secret)

    @property
    def text(self) -> str:
        """What the user gets to see, once."""
        return f"{self.id}-{self.secret}"

    def __repr__(self) -> str:
        return f"ApiToken(id={self.id!r}, secret=redacted)"


def new_agent_token() -> UUID:
    """An agent's token. Stock agents refuse anything but a UUID."""
    return uuid4()


def parse_agent_token(text: str) -> UUID | None:
    """A presented agent token, or None when it is not a UUID."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def secret_hash(secret: str | UUID) -> bytes:
    """SHA-256 of a random secret: with over 120 bits of randomness a slow hash would protect nothing."""
    return hashlib.sha256(str(secret).encode()).digest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))

"""Keys that travel in URLs: encrypted, bound to one place, and with an end.

Two uses: smuggling a key to an app's host, once, within a minute (``purpose`` = the host), and the segment in the
path of a sandboxed page, whose requests carry no cookies (``purpose`` = the app's base path).

Layout, before base64url: ``12 B nonce ‖ AES-256-GCM(8 B big-endian expiry in seconds ‖ key text) ‖ 16 B tag``, with the
purpose as associated data. Source: NIST SP 800-38D; coder encrypts the same key as a JWE
(coderd/workspaceapps/token.go).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE = 12
MAX_SEALED = 512
MAX_SPENT = 10_000
"""Tokens remembered as used. Each is forgotten when it expires; beyond this many nobody gets in by a new one."""


class Sealer:
    """Seals and opens. `secret` is the deployment's, `rng` gives nonces."""

    def __init__(self, secret: bytes, rng: Callable[[int], bytes]) -> None:
        self._key = hashlib.sha256(b"coder apps, sealed keys\0" + secret).digest()
        self._rng = rng

    @cached_property
    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # at first use: 6 MB

        return AESGCM(self._key)

    def seal(self, text: str, purpose: str, expires_at: float) -> str:
        """`text`, readable by us alone until `expires_at` (wall clock, seconds), for `purpose` alone."""
        nonce = self._rng(NONCE)
        plain = int(expires_at).to_bytes(8, "big") + text.encode()
        return (
            base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, plain, purpose.encode())).decode().rstrip("=")
        )

    def open(self, sealed: str, purpose: str, now: float) -> tuple[str, float] | None:
        """Text and expiry; None if it is not ours, not for this purpose, or too old."""
        if len(sealed) > MAX_SEALED:
            return None
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
            plain = self._cipher.decrypt(raw[:NONCE], raw[NONCE:], purpose.encode())
            expires_at = float(int.from_bytes(plain[:8], "big"))
            return (plain[8:].decode(), expires_at) if expires_at > now else None
        except (InvalidTag, ValueError, binascii.Error):
            return None


class Spent:
    """Tokens that were used: each works once."""

    def __init__(self, limit: int = MAX_SPENT) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()
        self._limit = limit

    def spend(self, token: str, expires_at: float, now: float) -> bool:
        """True the first time. False later, and while too many others have not expired yet."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if token in self._until or len(self._until) >= self._limit:
            return False
        self._until[token] = expires_at
        return True

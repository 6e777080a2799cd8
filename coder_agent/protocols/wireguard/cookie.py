"""mac1, mac2 and cookies: how a responder under load makes initiators prove that they own their address.

Source: the WireGuard paper §5.4.4, §5.4.7; wireguard-go device/cookie.go.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from .messages import MACS_SIZE, CookieReply, build_cookie_reply
from .primitives import blake2s, keyed_mac

COOKIE_LIFETIME = 120.0
"""A cookie, and the secret behind it, are good for this long. Seconds (WireGuard paper §6.1, COOKIE_REFRESH_TIME)."""

_LABEL_MAC1 = b"mac1----"
_LABEL_COOKIE = b"cookie--"
_MAC_SIZE = 16
_NO_MAC2 = bytes(_MAC_SIZE)


class MacStamper:
    """Puts the MACs on messages to one peer, and keeps the cookie that the peer gave us."""

    __slots__ = ("_mac1_key", "_cookie_key", "_last_mac1", "_cookie", "_cookie_time")

    def __init__(self, remote: bytes) -> None:
        self._mac1_key = blake2s(_LABEL_MAC1, remote)
        self._cookie_key = blake2s(_LABEL_COOKIE, remote)
        self._last_mac1: bytes | None = None
        self._cookie: bytes | None = None
        self._cookie_time = 0.0

    def stamp(self, body: bytes, now: float) -> bytes:
        """`body` with its MACs; mac2 is zero unless we hold a fresh cookie."""
        self._last_mac1 = keyed_mac(self._mac1_key, body)
        message = body + self._last_mac1
        if self._cookie is None or now - self._cookie_time >= COOKIE_LIFETIME:
            return message + _NO_MAC2
        return message + keyed_mac(self._cookie, message)

    def take_cookie(self, reply: CookieReply, now: float) -> bool:
        """Keep the cookie for later messages. False if it does not belong to the last message sent."""
        if self._last_mac1 is None:
            return False
        try:
            self._cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(
                reply.cookie, self._last_mac1, reply.nonce, self._cookie_key
            )
        except CryptoError:
            return False
        self._cookie_time = now
        self._last_mac1 = None  # one reply per message is enough
        return True


class MacChecker:
    """Checks the MACs on messages to us and gives out cookies. `source` is any stable encoding of an address."""

    __slots__ = ("_mac1_key", "_cookie_key", "_rng", "_secret", "_secret_time")

    def __init__(self, public: bytes, rng: Callable[[int], bytes]) -> None:
        self._mac1_key = blake2s(_LABEL_MAC1, public)
        self._cookie_key = blake2s(_LABEL_COOKIE, public)
        self._rng = rng
        self._secret = b""
        self._secret_time = 0.0

    def has_mac1(self, message: bytes) -> bool:
        """True if the sender knows our public key."""
        expected = keyed_mac(self._mac1_key, message[:-MACS_SIZE])
        return hmac.compare_digest(expected, message[-MACS_SIZE:-_MAC_SIZE])

    def has_mac2(self, message: bytes, source: bytes, now: float) -> bool:
        """True if the sender got our cookie at `source`."""
        if not self._secret or now - self._secret_time >= COOKIE_LIFETIME:
            return False
        expected = keyed_mac(keyed_mac(self._secret, source), message[:-_MAC_SIZE])
        return hmac.compare_digest(expected, message[-_MAC_SIZE:])

    def reply(self, message: bytes, source: bytes, now: float) -> bytes:
        """The cookie reply (64 bytes) to message 1 or 2, which carries its sender's index at offset 4."""
        if not self._secret or now - self._secret_time >= COOKIE_LIFETIME:
            self._secret = self._rng(32)
            self._secret_time = now
        nonce = self._rng(24)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            keyed_mac(self._secret, source), message[-MACS_SIZE:-_MAC_SIZE], nonce, self._cookie_key
        )
        return build_cookie_reply(CookieReply(int.from_bytes(message[4:8], "little"), nonce, sealed))

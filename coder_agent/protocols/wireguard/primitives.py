"""The cryptographic functions of WireGuard under the names its paper uses, and its time stamp.

All from libsodium, which relays and disco need anyway. OpenSSL's AEAD, four times faster on packets, is for sessions
alone (session.py): it costs 7 MB, which a node without a peer saves.

Source: the WireGuard paper §5.4; wireguard-go device/noise-helpers.go and tai64n/tai64n.go.
"""

from __future__ import annotations

import hashlib
import hmac
import math

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

_ZERO_NONCE = bytes(12)
_TAI64_EPOCH = 2**62 + 10
"""TAI64 label of the Unix epoch, with the ten seconds TAI was ahead in 1970 (leap seconds since are ignored)."""
STAMP_STEP = 1 << 24
"""Nanoseconds per distinct time stamp (16.8 ms): the low bits are cleared so that the stamp leaks no fine timing."""


class HandshakeRefused(Exception):
    """A handshake message failed a cryptographic check. `reason` is a stable word for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def blake2s(*parts: bytes) -> bytes:
    """HASH: BLAKE2s-256 of the parts joined."""
    return hashlib.blake2s(b"".join(parts)).digest()


def keyed_mac(key: bytes, data: bytes) -> bytes:
    """MAC: keyed BLAKE2s with 16 bytes of output (not HMAC)."""
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "blake2s")


def kdf(chain: bytes, data: bytes, count: int) -> list[bytes]:
    """KDFn: `count` keys of 32 bytes from a chaining key and new material (HKDF with BLAKE2s)."""
    secret = _hmac(chain, data)
    keys: list[bytes] = []
    block = b""
    for i in range(1, count + 1):
        block = _hmac(secret, block + bytes([i]))
        keys.append(block)
    return keys


def public_bytes(private: bytes) -> bytes:
    """The public key of a private one."""
    return crypto_scalarmult_base(private)


def shared_secret(private: bytes, public: bytes) -> bytes:
    """DH. Raises HandshakeRefused for low-order public keys, whose result is all zero."""
    try:
        return crypto_scalarmult(private, public)
    except CryptoError as exc:
        raise HandshakeRefused("low-order-key") from exc


def seal_once(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """AEAD with counter 0: handshake keys are used once."""
    return crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, aad, _ZERO_NONCE, key)


def open_once(key: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Inverse of `seal_once`. Raises HandshakeRefused."""
    try:
        return crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, aad, _ZERO_NONCE, key)
    except CryptoError as exc:
        raise HandshakeRefused("bad-handshake-tag") from exc


def tai64n(unix_seconds: float) -> bytes:
    """The time stamp of an initiation: u64 BE seconds ‖ u32 BE nanoseconds, low 24 bits of the latter cleared.

    Stamps compare as bytes in the order of time.
    """
    seconds = math.floor(unix_seconds)
    nanoseconds = min(int((unix_seconds - seconds) * 1e9), 999_999_999) & -STAMP_STEP
    return (_TAI64_EPOCH + seconds).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")


def next_stamp(stamp: bytes) -> bytes:
    """The smallest stamp after `stamp`; used when the wall clock stands still or was set back."""
    seconds, nanoseconds = int.from_bytes(stamp[:8], "big"), int.from_bytes(stamp[8:], "big") + STAMP_STEP
    if nanoseconds >= 1_000_000_000:
        seconds, nanoseconds = seconds + 1, 0
    return seconds.to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")

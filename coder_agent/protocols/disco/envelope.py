"""The sealed envelope around every disco message: one UDP datagram, or the payload of one relay packet.

Layout: magic 6 ‖ sender's disco public key 32 ‖ nonce 24 ‖ NaCl box (tag 16 ‖ ciphertext). There is no length field.
The Diffie-Hellman half of the box is done once per peer (`precompute`): sealing then costs microseconds.
Source: tailscale disco/disco.go, types/key/disco.go; NaCl crypto_box.
"""

from __future__ import annotations

from nacl.bindings import crypto_box_afternm, crypto_box_beforenm, crypto_box_open_afternm
from nacl.exceptions import CryptoError

from ...base.keys import KEY_SIZE, DiscoPrivate, DiscoPublic

MAGIC = b"TS\xf0\x9f\x92\xac"
"""``TS💬``: cannot open a WireGuard message (1–4, then three zeros) nor a STUN one (top two bits zero)."""
NONCE_SIZE = 24
_HEADER = len(MAGIC) + KEY_SIZE
_TAG = 16
OVERHEAD = _HEADER + NONCE_SIZE + _TAG
"""Bytes around the plaintext: 78. A datagram of exactly this size would carry an empty message."""


def looks_like_disco(packet: bytes | memoryview) -> bool:
    """True if `packet` must be treated as disco: the magic and room for the sender's key (as magicsock asks; relays
    ask for the nonce too)."""
    return len(packet) >= _HEADER and packet[: len(MAGIC)] == MAGIC


def sender_of(packet: bytes | memoryview) -> bytes:
    """The sender's disco public key, raw and not yet proven. `packet` must look like disco."""
    return bytes(packet[len(MAGIC) : _HEADER])


def precompute(private: DiscoPrivate, public: DiscoPublic) -> bytes | None:
    """The 32-byte key shared with `public`; None for a key with which no secret can be shared (zero, low order)."""
    try:
        return crypto_box_beforenm(public.raw, private.secret)
    except (CryptoError, RuntimeError):  # libsodium refuses low-order points
        return None


def seal(sender: DiscoPublic, shared: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """The packet that carries `plaintext`. `nonce` is 24 bytes and must never repeat for one shared key."""
    return MAGIC + sender.raw + nonce + crypto_box_afternm(plaintext, nonce, shared)


def open_sealed(packet: bytes | memoryview, shared: bytes) -> bytes | None:
    """The plaintext; None if the packet is too short or was not sealed for us. Never raises."""
    if len(packet) < OVERHEAD:
        return None
    nonce = bytes(packet[_HEADER : _HEADER + NONCE_SIZE])
    try:
        return crypto_box_open_afternm(bytes(packet[_HEADER + NONCE_SIZE :]), nonce, shared)
    except CryptoError:
        return None

"""Key types: one type per kind, so that a disco key can never be used where a node key belongs.

Text forms (tailscale types/key): ``nodekey:<64 hex>``, ``privkey:<64 hex>`` (node private), ``discokey:<64 hex>``.
Private keys are clamped on creation (NaCl box uses them raw), compare in constant time and print redacted.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from nacl.bindings import crypto_scalarmult_base

KEY_SIZE = 32


def clamp(raw: bytes) -> bytes:
    """Curve25519 clamping: b[0] &= 248; b[31] = (b[31] & 127) | 64."""
    key = bytearray(raw)
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def _digits(text: str, wanted: str) -> bytes:
    prefix, _, digits = text.strip().partition(":")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if f"{prefix}:" != wanted or len(digits) != 2 * KEY_SIZE or len(raw) != KEY_SIZE:
        raise ValueError(f"expected {wanted} followed by {2 * KEY_SIZE} hex digits")
    return raw


@dataclass(frozen=True, slots=True)
class _PublicKey:
    raw: bytes
    prefix: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; upper-case hex is accepted. Raises ValueError without repeating the text."""
        return cls(_digits(text, cls.prefix))

    @property
    def is_zero(self) -> bool:
        """The all-zero key is never valid: nothing may be sealed to or opened from it."""
        return not any(self.raw)

    @property
    def short(self) -> str:
        """The first 8 hex digits, for logs."""
        return self.raw[:4].hex()

    def __str__(self) -> str:
        return self.prefix + self.raw.hex()

    def __hash__(self) -> int:  # hot dictionary key: hash the bytes, not a tuple around them
        return hash(self.raw)


class NodePublic(_PublicKey):
    """A node's WireGuard static key, which is also its DERP identity."""

    __slots__ = ()
    prefix = "nodekey:"


class DiscoPublic(_PublicKey):
    """A node's path-discovery key; separate from the node key, new per process."""

    __slots__ = ()
    prefix = "discokey:"


class _PrivateKey:
    __slots__ = ("_raw",)
    prefix: ClassVar[str]

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(raw)}")
        self._raw = clamp(raw)

    @classmethod
    def generate(cls, rng: Callable[[int], bytes]) -> Self:
        """A new key from `rng` (`os.urandom` outside tests)."""
        return cls(rng(KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Raises ValueError without repeating the text."""
        return cls(_digits(text, cls.prefix))

    @property
    def secret(self) -> bytes:
        """The 32 clamped bytes. Never log them."""
        return self._raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    def _public_raw(self) -> bytes:
        return crypto_scalarmult_base(self._raw)


class NodePrivate(_PrivateKey):
    """Private half of a NodePublic."""

    __slots__ = ()
    prefix = "privkey:"

    def public(self) -> NodePublic:
        """The matching public key."""
        return NodePublic(self._public_raw())

    def reveal(self) -> str:
        """The text form for a key file (mode 0600). Never log it."""
        return self.prefix + self._raw.hex()


class DiscoPrivate(_PrivateKey):
    """Private half of a DiscoPublic."""

    __slots__ = ()
    prefix = "discopriv:"

    def public(self) -> DiscoPublic:
        """The matching public key."""
        return DiscoPublic(self._public_raw())

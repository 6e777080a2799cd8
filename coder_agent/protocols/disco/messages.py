"""What disco says: ping, pong, call-me-maybe.

Layout: type (1) ‖ version (1) ‖ body. Integers are big-endian; an IP takes 16 bytes, IPv4 as ::ffff:a.b.c.d.
Bytes after what a message needs are padding and always ignored, so that the format can grow.
Source: tailscale disco/disco.go; coder/tailscale disco/disco.go for version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...base.addresses import AddrPort
from ...base.keys import KEY_SIZE, NodePublic
from .facts import ENDPOINT_SIZE, Facts, GuessMyPort, pack_endpoint, parse_facts, parse_guess, unpack_endpoint

TXID_SIZE = 12
"""Bytes of a ping's random transaction id."""
_HEADER = 2
_ENDPOINT = ENDPOINT_SIZE
_ACCEPTS = 2
_ZERO_KEY = bytes(KEY_SIZE)


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks "do you hear me on this path?".

    Layout: txid 12 ‖ [node public key 32] ‖ zero padding. The key is a hint, not authenticated; absent from peers of
    before 2021, and an all-zero key counts as absent. `version` is not checked by anyone: Coder's fork sends 1.
    Units: `padding` in bytes after the key.
    """

    TYPE: ClassVar[int] = 1
    txid: bytes
    node_key: NodePublic | None = None
    version: int = 0
    padding: int = 0

    def encode(self) -> bytes:
        """The plaintext. Padding behind an absent key is written behind 32 zero bytes, as a parser will see it."""
        key = self.node_key.raw if self.node_key else (_ZERO_KEY if self.padding else b"")
        return bytes((self.TYPE, self.version)) + self.txid + key + bytes(self.padding)


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a ping: "yes, and I saw you at `src`" (which makes every peer a STUN server).

    Layout: txid 12 ‖ IP 16 ‖ port 2 ‖ zero padding. Over a relay `src` is 127.3.3.40:<region>. Ours: in a padded one
    the first 2 bytes of the padding say how large inner packets its sender takes (`accepts`; stock peers leave zeros
    there, or do not pad).
    """

    TYPE: ClassVar[int] = 2
    txid: bytes
    src: AddrPort
    version: int = 0
    padding: int = 0
    accepts: int = 0

    def encode(self) -> bytes:
        """The plaintext."""
        padding = bytes(self.padding)
        if self.version and self.padding >= _ACCEPTS:
            padding = self.accepts.to_bytes(_ACCEPTS, "big") + padding[_ACCEPTS:]
        return bytes((self.TYPE, self.version)) + self.txid + pack_endpoint(self.src) + padding


@dataclass(frozen=True, slots=True)
class CallMeMaybe:
    """Says, over a relay only, "I have just pinged all your addresses, so my NAT is open: ping me at these".

    Layout: n × (IP 16 ‖ port 2). An ill-formed or unknown-version body means an empty list, and still means "ping me".
    """

    TYPE: ClassVar[int] = 3
    endpoints: tuple[AddrPort, ...] = ()

    def encode(self) -> bytes:
        """The plaintext."""
        return bytes((self.TYPE, 0)) + b"".join(map(pack_endpoint, self.endpoints))


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that is none of our business: peer-relay set-up (types 4–9), which we leave out, or a newer type."""

    type: int


Message = Ping | Pong | CallMeMaybe | Facts | GuessMyPort | Ignored


def parse(plaintext: bytes) -> Message | None:
    """Read one message; None if it is too short for its type. Never raises."""
    if len(plaintext) < _HEADER:
        return None
    kind, version, body = plaintext[0], plaintext[1], plaintext[_HEADER:]
    if kind == Ping.TYPE:
        return _parse_ping(version, body)
    if kind == Pong.TYPE:
        if len(body) < TXID_SIZE + _ENDPOINT:
            return None
        src = unpack_endpoint(body[TXID_SIZE : TXID_SIZE + _ENDPOINT])
        padding = body[TXID_SIZE + _ENDPOINT :]
        accepts = int.from_bytes(padding[:_ACCEPTS], "big") if version and len(padding) >= _ACCEPTS else 0
        return Pong(body[:TXID_SIZE], src, version, len(padding), accepts)
    if kind == CallMeMaybe.TYPE:
        if version != 0 or len(body) % _ENDPOINT:
            return CallMeMaybe()
        starts = range(0, len(body), _ENDPOINT)
        return CallMeMaybe(tuple(unpack_endpoint(body[i : i + _ENDPOINT]) for i in starts))
    if kind == Facts.TYPE:
        return parse_facts(version, body)
    if kind == GuessMyPort.TYPE:
        return parse_guess(version, body)
    return Ignored(kind)


def _parse_ping(version: int, body: bytes) -> Ping | None:
    if len(body) < TXID_SIZE:
        return None
    txid, rest = body[:TXID_SIZE], body[TXID_SIZE:]
    if len(rest) < KEY_SIZE:
        return Ping(txid, None, version)
    raw = rest[:KEY_SIZE]
    return Ping(txid, None if raw == _ZERO_KEY else NodePublic(raw), version, len(rest) - KEY_SIZE)

"""PCP datagrams (RFC 6887): ANNOUNCE and MAP, for UDP over IPv4.

Layout, integers big-endian:
    request    02 ‖ opcode ‖ 0000 ‖ lifetime(4) ‖ our address(16, IPv4 mapped)
    response   02 ‖ opcode|80 ‖ 00 ‖ result(1) ‖ lifetime(4) ‖ epoch(4) ‖ 12 zero bytes
    MAP        nonce(12) ‖ IP protocol(1) ‖ 3 zero bytes ‖ internal(2) ‖ external(2) ‖ external address(16)
ANNOUNCE has no body. The nonce names the mapping: the same one renews and deletes it (RFC 6887 §11.1), and an answer
with another one is not for us.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ...errors import LocalProtocolError
from ..effects import Dropped
from .natpmp import Datagram

VERSION = 2
OP_ANNOUNCE = 0
OP_MAP = 1
REPLY = 0x80
HEADER_SIZE = 24
MAP_SIZE = 60
MAX_SIZE = 1100
"""Longer messages are dropped, as are those whose length is no multiple of 4. Source: RFC 6887 §7, §8.3."""
NONCE_SIZE = 12
UDP = 17
"""IP protocol number."""
ANY_ADDRESS = "0.0.0.0"

RESULTS = {
    0: "success",
    1: "unsupported-version",
    2: "not-authorized",
    3: "malformed-request",
    4: "unsupported-opcode",
    5: "unsupported-option",
    6: "malformed-option",
    7: "network-failure",
    8: "no-resources",
    9: "unsupported-protocol",
    10: "user-exceeded-quota",
    11: "cannot-provide-external",
    12: "address-mismatch",
    13: "excessive-remote-peers",
}
"""Result codes as words. Source: RFC 6887 §7.4."""
UNUSABLE = frozenset({2, 12})
"""Results of a probe that mean: PCP is there, but not for us. Source: tailscale net/portmapper/portmapper.go."""


@dataclass(frozen=True, slots=True)
class AnnounceReply:
    """PCP is spoken here. `epoch`: seconds since the gateway forgot its mappings."""

    epoch: int


@dataclass(frozen=True, slots=True)
class MapReply:
    """`external` at `address` ("" = unknown) leads to our port `internal` for `lifetime` seconds (0: deleted)."""

    epoch: int
    nonce: bytes
    internal: int
    external: int
    address: str
    lifetime: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway said no. `retry_after` seconds is how long it means that; `nonce` b"" if the reply has none."""

    opcode: int
    result: int
    epoch: int
    retry_after: int
    nonce: bytes = b""

    @property
    def word(self) -> str:
        """The result as a word."""
        return RESULTS.get(self.result, f"result-{self.result}")


Reply = AnnounceReply | MapReply | Refused


@dataclass(frozen=True, slots=True)
class MapRequest:
    """What one MAP asks for. `address` and `external` are suggestions; `lifetime` 0 deletes."""

    client: str
    nonce: bytes
    internal: int
    external: int = 0
    lifetime: int = 0
    address: str = ANY_ADDRESS


def encode_announce(client: str) -> bytes:
    """Ask whether PCP is spoken, and for the epoch. `client`: our address as the gateway sees it."""
    return _header(OP_ANNOUNCE, 0, client)


def encode_map(request: MapRequest) -> bytes:
    """Ask for, renew or delete a UDP mapping. Raises LocalProtocolError when a value does not fit."""
    if len(request.nonce) != NONCE_SIZE:
        raise LocalProtocolError(f"a PCP nonce has {NONCE_SIZE} bytes, not {len(request.nonce)}")
    try:
        body = struct.pack("!12sB3xHH", request.nonce, UDP, request.internal, request.external)
        return _header(OP_MAP, request.lifetime, request.client) + body + _mapped(request.address)
    except struct.error as exc:
        raise LocalProtocolError(f"cannot ask for {request}: {exc}") from exc


def parse_reply(data: Datagram) -> Reply | Dropped:
    """Read what came from gateway:5351 (the caller checks that, and the nonce)."""
    if not HEADER_SIZE <= len(data) <= MAX_SIZE or len(data) % 4:
        return Dropped("pcp-wrong-size")
    version, opcode, result, lifetime, epoch = struct.unpack_from("!BBxBII", data)
    if version != VERSION:
        return Dropped("pcp-wrong-version")
    if not opcode & REPLY:
        return Dropped("pcp-not-a-reply")
    opcode &= ~REPLY
    has_map = opcode == OP_MAP and len(data) >= MAP_SIZE
    if result != 0:
        nonce = bytes(data[HEADER_SIZE : HEADER_SIZE + NONCE_SIZE]) if has_map else b""
        return Refused(opcode, result, epoch, lifetime, nonce)
    if opcode == OP_ANNOUNCE:
        return AnnounceReply(epoch)
    if opcode != OP_MAP:
        return Dropped("pcp-wrong-opcode")
    if not has_map:
        return Dropped("pcp-truncated")
    nonce, protocol, internal, external, packed = struct.unpack_from("!12sB3xHH16s", data, HEADER_SIZE)
    if protocol != UDP:
        return Dropped("pcp-wrong-protocol")
    return MapReply(epoch, nonce, internal, external, _unmapped(packed), lifetime)


def _header(opcode: int, lifetime: int, client: str) -> bytes:
    return struct.pack("!BBHI", VERSION, opcode, 0, lifetime) + _mapped(client)


def _mapped(address: str) -> bytes:
    """IPv4 in its IPv6 form, ::ffff:a.b.c.d."""
    return b"\0" * 10 + b"\xff\xff" + IPv4Address(address).packed


def _unmapped(packed: bytes) -> str:
    """The IPv4 address inside; "" for none and for real IPv6, which a mapping of an IPv4 port cannot have."""
    address = IPv6Address(packed).ipv4_mapped
    return "" if address is None or address.is_unspecified else str(address)

"""The four message types: sizes, layouts, parsing. Everything is little-endian.

    1 initiation (148): 01 00 00 00 | sender u32 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 16 | mac2 16
    2 response    (92): 02 00 00 00 | sender u32 | receiver u32 | ephemeral 32 | empty 16 | mac1 16 | mac2 16
    3 cookie      (64): 03 00 00 00 | receiver u32 | nonce 24 | cookie 16+16
    4 transport (≥ 32): 04 00 00 00 | receiver u32 | counter u64 | ciphertext | tag 16

Source: the WireGuard paper §5.4; wireguard-go device/noise-protocol.go.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...base.burst import Burst

INITIATION = 1
RESPONSE = 2
COOKIE_REPLY = 3
TRANSPORT = 4

INITIATION_SIZE = 148
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64
MESSAGE_SIZES = {INITIATION: INITIATION_SIZE, RESPONSE: RESPONSE_SIZE, COOKIE_REPLY: COOKIE_REPLY_SIZE}
"""Handshake messages have exactly one valid length each."""

HEADER_SIZE = 16
TAG_SIZE = 16
OVERHEAD = HEADER_SIZE + TAG_SIZE
"""What sealing adds to a packet; also the size of a keepalive, the shortest transport message."""
MACS_SIZE = 32
"""mac1 and mac2 at the end of messages 1 and 2."""
PADDING = 16
"""Inner packets are zero-padded to a multiple of this (WireGuard paper §5.4.6)."""
MESSAGE_HEADROOM = 64
"""Writable bytes kept before single messages, so that a relay's frame header (37 B for DERP) needs no copy."""

_TRANSPORT_HEADER = struct.Struct("<IIQ")
unpack_header = _TRANSPORT_HEADER.unpack_from
"""(type, receiver index, counter) of a transport message at an offset."""
_INITIATION = struct.Struct("<II32s48s28s16s16s")
_RESPONSE = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY = struct.Struct("<II24s32s")


class Initiation(NamedTuple):
    """Message 1. `static` and `timestamp` are sealed."""

    sender: int
    ephemeral: bytes
    static: bytes
    timestamp: bytes


class Response(NamedTuple):
    """Message 2. `empty` is the tag of an empty plaintext."""

    sender: int
    receiver: int
    ephemeral: bytes
    empty: bytes


class CookieReply(NamedTuple):
    """Message 3. `cookie` is sealed with XChaCha20-Poly1305 under `nonce`."""

    receiver: int
    nonce: bytes
    cookie: bytes


def message_type(data: bytes) -> int:
    """The type of a handshake message with the right length and zero reserved bytes; 0 for anything else."""
    kind = int.from_bytes(data[:4], "little")
    return kind if MESSAGE_SIZES.get(kind) == len(data) else 0


def parse_initiation(data: bytes) -> Initiation:
    """Take message 1 apart (its type and length already checked)."""
    return Initiation(*_INITIATION.unpack(data)[1:5])


def parse_response(data: bytes) -> Response:
    """Take message 2 apart (its type and length already checked)."""
    return Response(*_RESPONSE.unpack(data)[1:5])


def parse_cookie_reply(data: bytes) -> CookieReply:
    """Take message 3 apart (its type and length already checked)."""
    return CookieReply(*_COOKIE_REPLY.unpack(data)[1:])


def build_initiation(message: Initiation) -> bytes:
    """The 116 bytes of message 1 before its MACs."""
    return _INITIATION.pack(INITIATION, *message, b"", b"")[:-MACS_SIZE]


def build_response(message: Response) -> bytes:
    """The 60 bytes of message 2 before its MACs."""
    return _RESPONSE.pack(RESPONSE, *message, b"", b"")[:-MACS_SIZE]


def build_cookie_reply(message: CookieReply) -> bytes:
    """All 64 bytes of message 3 (it carries no MACs)."""
    return _COOKIE_REPLY.pack(COOKIE_REPLY, *message)


def padded_size(size: int, mtu: int) -> int:
    """The plaintext size of an inner packet of `size` bytes: next multiple of 16, but never beyond the tunnel MTU."""
    if size >= mtu:
        return size
    return min((size + PADDING - 1) & -PADDING, mtu)


def message_burst(message: bytes) -> Burst:
    """One message in memory of its own, with room for a relay's header before it."""
    size = len(message)
    buffer = memoryview(bytearray(MESSAGE_HEADROOM) + message)
    return Burst(buffer, MESSAGE_HEADROOM, size, 1, size, size, MESSAGE_HEADROOM)

"""ICMPv6: echo both ways, and the errors that concern us (RFC 4443)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import ip

DESTINATION_UNREACHABLE = 1
PACKET_TOO_BIG = 2
ECHO_REQUEST = 128
ECHO_REPLY = 129
PORT_UNREACHABLE = 4
"""Code of DESTINATION_UNREACHABLE for a UDP port nobody listens on (RFC 4443 §3.1)."""

_MINIMUM_MTU = 1280
_ECHO = struct.Struct(">BBHHH")
_ERROR = struct.Struct(">BBHI")


class Echo(NamedTuple):
    """An echo message. `identifier` and `sequence` are 16 bit."""

    identifier: int
    sequence: int
    data: bytes


class Quote(NamedTuple):
    """An error and the transport flow of ours that it quotes. `info` is the MTU for PACKET_TOO_BIG."""

    type: int
    code: int
    info: int
    protocol: int
    source: bytes
    destination: bytes
    ports: bytes
    sequence: int


def parse_echo(payload: memoryview) -> Echo | None:
    """Read an echo message (either direction) after its type is known; None if too short."""
    if len(payload) < _ECHO.size:
        return None
    _, _, _, identifier, sequence = _ECHO.unpack_from(payload)
    return Echo(identifier, sequence, bytes(payload[_ECHO.size :]))


def echo(kind: int, source: bytes, destination: bytes, message: Echo) -> bytes:
    """A whole packet with an echo request or reply. Layout: type, code 0, checksum, identifier, sequence, data."""
    body = _ECHO.pack(kind, 0, 0, message.identifier, message.sequence) + message.data
    return ip.packet(ip.ICMPV6, source, destination, body, checksum_at=2)


def unreachable(code: int, source: bytes, destination: bytes, offender: memoryview) -> bytes:
    """A "destination unreachable" about `offender`, quoting as much of it as the minimum MTU holds (RFC 4443 §3.1)."""
    quoted = bytes(offender[: _MINIMUM_MTU - ip.HEADER_SIZE - _ERROR.size])
    body = _ERROR.pack(DESTINATION_UNREACHABLE, code, 0, 0) + quoted
    return ip.packet(ip.ICMPV6, source, destination, body, checksum_at=2)


def parse_error(payload: memoryview) -> Quote | None:
    """Read an error that quotes at least an IPv6 header and 8 bytes of transport header; None otherwise."""
    quoted = payload[_ERROR.size :]
    if len(quoted) < ip.HEADER_SIZE + 8 or quoted[0] >> 4 != 6:
        return None
    kind, code, _, info = _ERROR.unpack_from(payload)
    return Quote(
        type=kind,
        code=code,
        info=info,
        protocol=quoted[6],
        source=bytes(quoted[8:24]),
        destination=bytes(quoted[24:40]),
        ports=bytes(quoted[40:44]),
        sequence=int.from_bytes(quoted[44:48], "big"),
    )

"""UDP over IPv6 (RFC 768, RFC 8200 §8.1: the checksum is mandatory)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import ip

HEADER_SIZE = 8
_HEADER = struct.Struct(">HHHH")


class Datagram(NamedTuple):
    """Ports and payload of a received datagram; `data` is a view into the receive buffer."""

    source_port: int
    destination_port: int
    data: memoryview


def parse(payload: memoryview) -> Datagram | None:
    """Read a datagram. None if truncated or its length field lies."""
    if len(payload) < HEADER_SIZE:
        return None
    source_port, destination_port, size, _ = _HEADER.unpack_from(payload)
    if not HEADER_SIZE <= size <= len(payload):
        return None
    return Datagram(source_port, destination_port, payload[HEADER_SIZE:size])


def build(source: bytes, source_port: int, destination: bytes, destination_port: int, data: bytes) -> bytes:
    """A whole IPv6 packet. Layout: u16 source port, destination port, length, checksum, data."""
    body = _HEADER.pack(source_port, destination_port, HEADER_SIZE + len(data), 0) + data
    return ip.packet(ip.UDP, source, destination, body, checksum_at=6)

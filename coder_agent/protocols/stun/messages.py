"""STUN binding messages, both directions, as Tailscale's fleet speaks them.

Layout: header ``type(2) ‖ length(2) ‖ cookie 2112a442 ‖ transaction id(12)``, then attributes
``type(2) ‖ length(2, unpadded) ‖ value ‖ zero pad to 4``. Integers are big-endian; the header counts the padded
attributes. Source: RFC 8489 §5 and §14; tailscale net/stun/stun.go.

Parsers take anything a stranger may send: they return `Dropped(reason)` and never raise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from zlib import crc32

from ...base.addresses import AddrPort
from ...errors import LocalProtocolError
from ..effects import Dropped

DEFAULT_PORT = 3478
"""UDP port of STUN servers. Source: RFC 8489 §18.6."""
SOFTWARE = b"tailnode"
"""SOFTWARE of every Tailscale request; their servers answer nothing else. Source: tailscale net/stun/stun.go."""

MAGIC_COOKIE = bytes.fromhex("2112a442")
HEADER_SIZE = 20
TXID_SIZE = 12

BINDING_REQUEST = 0x0001
BINDING_SUCCESS = 0x0101

ATTR_MAPPED_ADDRESS = 0x0001
ATTR_XOR_MAPPED_ADDRESS = 0x0020
ATTR_XOR_MAPPED_ADDRESS_ALT = 0x8020
"""XOR-MAPPED-ADDRESS under the number of an early draft; some servers still use it."""
ATTR_SOFTWARE = 0x8022
ATTR_FINGERPRINT = 0x8028

FINGERPRINT_SIZE = 8
"""The whole attribute: type, length and the CRC."""
FINGERPRINT_XOR = 0x5354554E
"""ASCII "STUN", so that the CRC differs from other protocols' CRC-32. Source: RFC 8489 §14.7."""

_FAMILY_SIZES = {1: 4, 2: 16}
"""Address family of STUN to the length of the address. Source: RFC 8489 §14.1."""

Datagram = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """A server's answer: `mapped` is our address as it saw it (IPv4 in mapped form already un-mapped)."""

    txid: bytes
    mapped: AddrPort


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """A client's question. `software` is empty when the client did not say."""

    txid: bytes
    software: bytes = b""


def is_stun(packet: Datagram) -> bool:
    """Tell STUN from everything else on the same socket: two zero bits in front and the magic cookie."""
    return len(packet) >= HEADER_SIZE and packet[0] < 0x40 and packet[4:8] == MAGIC_COOKIE


def encode_request(txid: bytes) -> bytes:
    """A binding request of exactly 40 bytes: SOFTWARE "tailnode", then FINGERPRINT.

    Raises: LocalProtocolError when `txid` has not 12 bytes.
    """
    _check_txid(txid)
    length = 4 + len(SOFTWARE) + FINGERPRINT_SIZE
    body = struct.pack("!HH4s12sHH", BINDING_REQUEST, length, MAGIC_COOKIE, txid, ATTR_SOFTWARE, len(SOFTWARE))
    body += SOFTWARE
    return body + struct.pack("!HHI", ATTR_FINGERPRINT, 4, fingerprint(body))


def encode_response(txid: bytes, mapped: AddrPort) -> bytes:
    """A success response with XOR-MAPPED-ADDRESS only, as a stock derper sends: 32 bytes for IPv4, 44 for IPv6.

    Raises: LocalProtocolError when `txid` has not 12 bytes; ValueError when `mapped` is no address.
    """
    _check_txid(txid)
    ip = AddrPort.of(mapped.host, mapped.port).ip
    family = 1 if isinstance(ip, IPv4Address) else 2
    value = struct.pack("!BBH", 0, family, mapped.port ^ 0x2112) + _xor(ip.packed, txid)
    header = struct.pack("!HH4s12s", BINDING_SUCCESS, 4 + len(value), MAGIC_COOKIE, txid)
    return header + struct.pack("!HH", ATTR_XOR_MAPPED_ADDRESS, len(value)) + value


def parse_response(packet: Datagram) -> BindingResponse | Dropped:
    """Read a success response. Bytes behind the stated length are ignored, and so is a fingerprint.

    The caller must compare `txid` with what it has in flight; the source address proves nothing.
    """
    attributes = _open(packet, BINDING_SUCCESS)
    if isinstance(attributes, Dropped):
        return attributes
    txid = bytes(packet[8:HEADER_SIZE])
    plain: AddrPort | None = None
    for kind, value in attributes:
        if kind in (ATTR_XOR_MAPPED_ADDRESS, ATTR_XOR_MAPPED_ADDRESS_ALT):
            mapped = _parse_address(value, txid)
            return BindingResponse(txid, mapped) if mapped else Dropped("stun-bad-address")
        if kind == ATTR_MAPPED_ADDRESS and plain is None:
            plain = _parse_address(value, None)
            if plain is None:
                return Dropped("stun-bad-address")
    return BindingResponse(txid, plain) if plain else Dropped("stun-no-address")


def parse_request(packet: Datagram, *, strict: bool = True) -> BindingRequest | Dropped:
    """Read a binding request, as a server does.

    `strict` is the rule of Tailscale's servers: SOFTWARE is "tailnode", the last attribute is a right FINGERPRINT.
    Otherwise any well-formed request will do; a fingerprint that is there must be right and last (RFC 8489 §14.7).
    """
    attributes = _open(packet, BINDING_REQUEST)
    if isinstance(attributes, Dropped):
        return attributes
    kinds = [kind for kind, _ in attributes]
    software = next((value for kind, value in attributes if kind == ATTR_SOFTWARE), b"")
    if strict and software != SOFTWARE:
        return Dropped("stun-wrong-software")
    if ATTR_FINGERPRINT in kinds or strict:
        if not kinds or kinds[-1] != ATTR_FINGERPRINT:
            return Dropped("stun-fingerprint-not-last")
        if not _fingerprint_is_right(packet, attributes[-1][1]):
            return Dropped("stun-wrong-fingerprint")
    return BindingRequest(bytes(packet[8:HEADER_SIZE]), software)


def fingerprint(before: Datagram) -> int:
    """FINGERPRINT of a message; `before` is all bytes up to that attribute, which the header already counts."""
    return crc32(before) ^ FINGERPRINT_XOR


def _check_txid(txid: bytes) -> None:
    if len(txid) != TXID_SIZE:
        raise LocalProtocolError(f"a STUN transaction id has {TXID_SIZE} bytes, not {len(txid)}")


def _fingerprint_is_right(packet: Datagram, value: bytes) -> bool:
    end = HEADER_SIZE + int.from_bytes(packet[2:4], "big")
    return len(value) == 4 and int.from_bytes(value, "big") == fingerprint(packet[: end - FINGERPRINT_SIZE])


def _open(packet: Datagram, expected_type: int) -> list[tuple[int, bytes]] | Dropped:
    """Check the header and cut the attributes out."""
    if not is_stun(packet):
        return Dropped("stun-not-stun")
    kind, length = struct.unpack_from("!HH", packet)
    if kind != expected_type:
        return Dropped("stun-wrong-type")
    end = HEADER_SIZE + length
    if end > len(packet):
        return Dropped("stun-truncated")
    try:
        return list(_attributes(bytes(packet[HEADER_SIZE:end])))
    except ValueError:
        return Dropped("stun-bad-attributes")


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value). Raises ValueError where an attribute overruns the body."""
    at = 0
    while at < len(body):
        if len(body) - at < 4:
            raise ValueError("half an attribute header")
        kind, length = struct.unpack_from("!HH", body, at)
        at += 4
        padded = (length + 3) & ~3
        if at + padded > len(body):
            raise ValueError("attribute overruns the message")
        yield kind, body[at : at + length]
        at += padded


def _parse_address(value: bytes, xor_txid: bytes | None) -> AddrPort | None:
    """Decode (XOR-)MAPPED-ADDRESS: ``0 ‖ family ‖ port(2) ‖ address``. None when it is malformed."""
    if len(value) < 4:
        return None
    _, family, port = struct.unpack_from("!BBH", value)
    size = _FAMILY_SIZES.get(family)
    if size is None or len(value) < 4 + size:
        return None
    packed = value[4 : 4 + size]
    if xor_txid is not None:
        port ^= 0x2112
        packed = _xor(packed, xor_txid)
    address = IPv4Address(packed) if size == 4 else IPv6Address(packed)
    return AddrPort.of(address, port)


def _xor(packed: bytes, txid: bytes) -> bytes:
    """An address XOR the cookie (IPv4) or cookie ‖ txid (IPv6); its own inverse. Source: RFC 8489 §14.2."""
    mask = (MAGIC_COOKIE + txid)[: len(packed)]
    return bytes(a ^ b for a, b in zip(packed, mask, strict=True))

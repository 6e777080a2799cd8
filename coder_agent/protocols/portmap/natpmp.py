"""NAT-PMP datagrams (RFC 6886): ask the gateway for its outside address, and for a UDP port.

Layout, integers big-endian:
    address request   00 00
    address reply     00 80 ‖ result(2) ‖ epoch(4) ‖ IPv4(4)
    map request       00 01 ‖ 0000 ‖ internal port(2) ‖ wanted external port(2, 0 = any) ‖ lifetime(4)
    map reply         00 81 ‖ result(2) ‖ epoch(4) ‖ internal(2) ‖ external(2) ‖ lifetime(4)
A reply with a result other than 0 may end behind the epoch (RFC 6886 §3.5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from ...errors import LocalProtocolError
from ..effects import Dropped

GATEWAY_PORT = 5351
"""UDP port on which gateways serve NAT-PMP and PCP. Source: RFC 6886 §3.1, RFC 6887 §8.1."""
ANNOUNCE_PORT = 5350
"""UDP port at which gateways announce, to 224.0.0.1, that they restarted. Source: RFC 6886 §3.2.1, RFC 6887 §14.1.3."""
ANNOUNCE_GROUP = "224.0.0.1"

VERSION = 0
OP_ADDRESS = 0
OP_MAP_UDP = 1
REPLY = 0x80

RESULTS = {
    0: "success",
    1: "unsupported-version",
    2: "not-authorized",
    3: "network-failure",
    4: "out-of-resources",
    5: "unsupported-opcode",
}
"""Result codes as words. Source: RFC 6886 §3.5."""

ADDRESS_REQUEST = bytes((VERSION, OP_ADDRESS))

Datagram = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class AddressReply:
    """The gateway's outside address; "" if it has none (0.0.0.0). `epoch`: seconds since it forgot its mappings."""

    epoch: int
    address: str


@dataclass(frozen=True, slots=True)
class MapReply:
    """`external` leads to our port `internal` for `lifetime` seconds (0: the mapping was deleted)."""

    epoch: int
    internal: int
    external: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway said no. `opcode` is that of the request."""

    opcode: int
    result: int
    epoch: int

    @property
    def word(self) -> str:
        """The result as a word."""
        return RESULTS.get(self.result, f"result-{self.result}")


Reply = AddressReply | MapReply | Refused


def encode_map_request(internal: int, external: int, lifetime: int) -> bytes:
    """Ask for a UDP port; `lifetime` 0 deletes. Raises LocalProtocolError when a number does not fit."""
    try:
        return struct.pack("!BBHHHI", VERSION, OP_MAP_UDP, 0, internal, external, lifetime)
    except struct.error as exc:
        raise LocalProtocolError(f"cannot ask for port {external} → {internal} for {lifetime} s: {exc}") from exc


def parse_reply(data: Datagram) -> Reply | Dropped:
    """Read what came from gateway:5351 (the caller checks that). Bytes behind the reply are ignored."""
    if len(data) < 8:
        return Dropped("pmp-truncated")
    version, opcode, result, epoch = struct.unpack_from("!BBHI", data)
    if version != VERSION:
        return Dropped("pmp-wrong-version")
    if result != 0:  # some gateways answer a version they do not know with opcode 0 instead of 128
        return Refused(opcode & ~REPLY, result, epoch)
    if opcode == REPLY | OP_ADDRESS:
        if len(data) < 12:
            return Dropped("pmp-truncated")
        address = IPv4Address(bytes(data[8:12]))
        return AddressReply(epoch, "" if address.is_unspecified else str(address))
    if opcode == REPLY | OP_MAP_UDP:
        if len(data) < 16:
            return Dropped("pmp-truncated")
        return MapReply(epoch, *struct.unpack_from("!HHI", data, 8))
    return Dropped("pmp-wrong-opcode")

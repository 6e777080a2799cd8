"""What kind of packet is this? One UDP socket carries STUN, disco and WireGuard.

Source: tailscale wgengine/magicsock/magicsock.go (receiveIP), net/packet/geneve.go, net/stun.
"""

from __future__ import annotations

from enum import Enum

from ..base.burst import Burst
from ..protocols.disco.envelope import looks_like_disco

_STUN_COOKIE = b"\x21\x12\xa4\x42"
_STUN_HEADER = 20
_WIREGUARD_TYPES = frozenset(bytes((kind, 0, 0, 0)) for kind in (1, 2, 3, 4))
_WIREGUARD_MIN = 32  # a transport message around nothing: a keepalive
_TRANSPORT = 4


class PacketKind(Enum):
    """Who gets a datagram."""

    STUN = "stun"
    DISCO = "disco"
    WIREGUARD = "wireguard"
    OTHER = "other"


def classify(packet: bytes | memoryview) -> PacketKind:
    """The kind of one datagram. Cheap, and right for any input."""
    first = bytes(packet[:4])
    if first in _WIREGUARD_TYPES:  # first, because most frequent; STUN has 1 in its second byte, disco an S
        return PacketKind.WIREGUARD if len(packet) >= _WIREGUARD_MIN else PacketKind.OTHER
    if looks_like_disco(packet):
        return PacketKind.DISCO
    if len(packet) >= _STUN_HEADER and not first[0] & 0xC0 and first[1] == 1 and packet[4:8] == _STUN_COOKIE:
        return PacketKind.STUN
    return PacketKind.OTHER


def classify_burst(burst: Burst) -> PacketKind | None:
    """The kind of all packets of a burst; None if they are mixed, or cannot be told apart cheaply: go row by row.

    The kernel coalesces datagrams of one sender by size alone, so a ping may sit amid data. The first bytes of all
    rows are one strided slice; transport data (type 4) is the only kind that begins so.
    """
    if burst.count == 1 or not burst.stride:  # stride 0: all rows are empty
        return classify(burst.row(0))
    end = burst.base + (burst.count - 1) * burst.stride + 1
    if bytes(burst.buffer[burst.base : end : burst.stride]).count(_TRANSPORT) == burst.count:
        return classify(burst.row(0))
    return None

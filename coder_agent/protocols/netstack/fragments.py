"""IPv6 fragments (RFC 8200 §4.5): how a datagram larger than the tunnel's MTU gets through between nodes of ours.

gVisor, the stack of stock peers, cuts and joins in the same way, but the packet filter in front of it knows no
extension headers and drops them ("unknown protocol"; Source: tailscale net/packet/packet.go decode6). To a stock peer
only what fits its 1280-byte packets arrives: 1232 bytes of data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from . import ip

FRAGMENT = 44
"""Next-header number of the fragment header."""
HEADER_SIZE = 8
_HEADER = struct.Struct(">BBHI")
_MORE = 1
LIFETIME = 5.0
"""Seconds for the rest of a datagram to come. RFC 8200 allows a minute; the pieces of ours leave in one turn, and no
tunnel path holds packets back for seconds."""
MAX_INCOMPLETE = 64
"""Datagrams under way; beyond, the oldest is given up. So at most 4 MB are held."""
MAX_SIZE = 65_535
"""Bytes of a whole datagram with its UDP header."""


def fragments(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """Cut a whole IPv6 packet without extension headers into packets of at most `mtu` bytes.

    Layout of what stands behind each IPv6 header: u8 next header, u8 zero, u16 (offset in 8 bytes « 3 | more), u32
    identification. All but the last carry a multiple of 8 bytes.
    """
    source, destination, protocol = packet[8:24], packet[24:40], packet[6]
    body = memoryview(packet)[ip.HEADER_SIZE :]
    step = (mtu - ip.HEADER_SIZE - HEADER_SIZE) & ~7
    pieces = []
    for offset in range(0, len(body), step):
        data = body[offset : offset + step]
        more = _MORE if offset + step < len(body) else 0
        head = ip.header(HEADER_SIZE + len(data), FRAGMENT, source, destination)
        pieces.append(head + _HEADER.pack(protocol, 0, offset | more, identification) + data)
    return pieces


@dataclass(slots=True)
class _Incomplete:
    """What has come of one datagram. `size` is known once the last piece is there; nothing lies at or beyond `tail`."""

    since: float
    pieces: dict[int, bytes] = field(default_factory=dict)
    held: int = 0
    tail: int = 0
    size: int | None = None


class Reassembler:
    """Joins fragments. Bounded; takes nothing that overlaps (RFC 5722), and nothing but UDP."""

    def __init__(self) -> None:
        self._incomplete: dict[tuple[bytes, bytes, int], _Incomplete] = {}

    def __len__(self) -> int:
        return len(self._incomplete)

    def add(self, source: bytes, destination: bytes, payload: memoryview, now: float) -> bytes | str | None:
        """One fragment (what follows the IPv6 header). The whole datagram once it is complete, None if more must come,
        or the reason (a `str`) why it was dropped."""
        if len(payload) < HEADER_SIZE:
            return "malformed"
        protocol, _, place, identification = _HEADER.unpack_from(payload)
        offset, more, data = place & ~7, place & _MORE, payload[HEADER_SIZE:]
        if protocol != ip.UDP:
            return "unknown-protocol"
        if (more and len(data) % 8) or not data or offset + len(data) > MAX_SIZE:
            return "malformed"
        if not offset and not more:
            return bytes(data)
        key = (source, destination, identification)
        entry = self._entry(key, now)
        if not self._place(entry, offset, bytes(data), last=not more):
            del self._incomplete[key]
            return "fragments-overlap"
        if entry.held != entry.size:
            return None
        del self._incomplete[key]
        return b"".join(entry.pieces[at] for at in sorted(entry.pieces))

    def _entry(self, key: tuple[bytes, bytes, int], now: float) -> _Incomplete:
        entry = self._incomplete.get(key)
        if entry is not None and now - entry.since <= LIFETIME:
            return entry
        self._incomplete.pop(key, None)
        while self._incomplete:  # insertion order is order of age
            oldest = next(iter(self._incomplete))
            if len(self._incomplete) < MAX_INCOMPLETE and now - self._incomplete[oldest].since <= LIFETIME:
                break
            del self._incomplete[oldest]
        entry = self._incomplete[key] = _Incomplete(now)
        return entry

    def _place(self, entry: _Incomplete, offset: int, data: bytes, *, last: bool) -> bool:
        """Keep a piece. False if it contradicts what is there; an exact repetition is ignored."""
        end = offset + len(data)
        known = entry.pieces.get(offset)
        if known is not None:
            return known == data
        if last and (entry.size is not None or entry.tail > end):
            return False
        if entry.size is not None and end > entry.size:
            return False
        if offset < entry.tail and any(at < end and offset < at + len(piece) for at, piece in entry.pieces.items()):
            return False
        if last:
            entry.size = end
        entry.pieces[offset] = data
        entry.held += len(data)
        entry.tail = max(entry.tail, end)
        return True

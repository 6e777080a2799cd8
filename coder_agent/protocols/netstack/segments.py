"""TCP segments: one header and its options, read and written (RFC 9293 §3.1, RFC 7323, RFC 2018).

Bulk data never comes through here one segment at a time: see segmenter.py and merger.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import ip

FIN = 1
SYN = 2
RST = 4
PSH = 8
ACK = 16

HEADER_SIZE = 20
TIMESTAMP_SIZE = 12
"""NOP NOP TS: what a timestamp costs each segment."""
TIMESTAMP_LEAD = 0x0101080A
"""The first word of a timestamp option in its usual place (RFC 7323 appendix A)."""
MAX_SHIFT = 14
"""RFC 7323 §2.3."""
DEFAULT_MSS = 1220
"""Assumed if the peer's SYN has no MSS option, over IPv6 (RFC 9293 §3.7.1)."""
SACK_LIMIT = 4
"""Blocks that fit 40 bytes of options; 3 with timestamps (RFC 2018 §3)."""

_HEADER = struct.Struct(">IIIHHHH")
_TIMESTAMP = struct.Struct(">III")


class Options(NamedTuple):
    """What a segment's options say; None or empty = absent."""

    mss: int | None = None
    shift: int | None = None
    sack_permitted: bool = False
    timestamp: tuple[int, int] | None = None
    sacks: tuple[tuple[int, int], ...] = ()


NO_OPTIONS = Options()


class Segment:
    """A received segment, or a run of consecutive ones merged to a single one (`count` of them).

    `seq`, `ack` are the 32-bit numbers of the wire, `window` is unscaled; `chunks` is the payload (`size` bytes)
    already copied out of the receive buffer.
    """

    __slots__ = ("seq", "ack", "flags", "window", "options", "chunks", "size", "count")

    def __init__(self, seq: int, ack: int, flags: int, window: int, options: Options = NO_OPTIONS) -> None:
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.window = window
        self.options = options
        self.chunks: list[bytes] = []
        self.size = 0
        self.count = 1

    def __repr__(self) -> str:
        names = "".join(n for bit, n in zip((SYN, FIN, RST, PSH, ACK), "SFRP.", strict=True) if self.flags & bit)
        return f"<{names} seq {self.seq} ack {self.ack} win {self.window} len {self.size} {self.options}>"


def parse(view: memoryview, offset: int, size: int) -> tuple[Segment, int] | None:
    """Read the header of the TCP segment of `size` bytes at `offset`: (segment without payload, header size).

    None if it is truncated or its data offset lies. Unknown options are skipped; broken ones end the list.
    """
    if size < HEADER_SIZE:
        return None
    _, seq, ack, offset_flags, window, _, _ = _HEADER.unpack_from(view, offset)
    head = (offset_flags >> 12) * 4
    if not HEADER_SIZE <= head <= size:
        return None
    segment = Segment(seq, ack, offset_flags & 0x3F, window)
    if head > HEADER_SIZE:
        if head == HEADER_SIZE + TIMESTAMP_SIZE:
            lead, value, echo = _TIMESTAMP.unpack_from(view, offset + HEADER_SIZE)
            if lead == TIMESTAMP_LEAD:  # nine segments in ten of a peer that uses timestamps
                segment.options = Options(timestamp=(value, echo))
                return segment, head
        segment.options = parse_options(bytes(view[offset + HEADER_SIZE : offset + head]))
    return segment, head


def parse_options(raw: bytes) -> Options:
    """Read an option list (RFC 9293 §3.2). A length that lies ends it: what was read until there counts."""
    mss = shift = timestamp = None
    sack_permitted = False
    sacks: tuple[tuple[int, int], ...] = ()
    at = 0
    while at < len(raw) and raw[at] != 0:
        kind = raw[at]
        if kind == 1:
            at += 1
            continue
        size = raw[at + 1] if at + 1 < len(raw) else 0
        if size < 2 or at + size > len(raw):
            break
        body = raw[at + 2 : at + size]
        if kind == 2 and size == 4:
            mss = int.from_bytes(body, "big")
        elif kind == 3 and size == 3:
            shift = min(body[0], MAX_SHIFT)
        elif kind == 4 and size == 2:
            sack_permitted = True
        elif kind == 5 and size % 8 == 2:
            words = struct.unpack(f">{len(body) // 4}I", body)
            sacks = tuple(zip(words[::2], words[1::2], strict=True))
        elif kind == 8 and size == 10:
            timestamp = struct.unpack(">II", body)
        at += size
    return Options(mss, shift, sack_permitted, timestamp, sacks)


def syn_options(options: Options) -> bytes:
    """Options of a SYN in gVisor's order: MSS, SACK permitted, timestamps, window scale; padded to words."""
    out = bytearray()
    if options.mss is not None:
        out += struct.pack(">BBH", 2, 4, options.mss)
    if options.timestamp is not None:
        out += (b"\4\2" if options.sack_permitted else b"\1\1") + struct.pack(">BBII", 8, 10, *options.timestamp)
    elif options.sack_permitted:
        out += b"\1\1\4\2"
    if options.shift is not None:
        out += struct.pack(">BBBB", 1, 3, 3, options.shift)
    return bytes(out)


def ack_options(options: Options) -> bytes:
    """Options of any other segment: timestamps, then as many SACK blocks as fit."""
    out = b"" if options.timestamp is None else _TIMESTAMP.pack(TIMESTAMP_LEAD, *options.timestamp)
    if options.sacks:
        blocks = options.sacks[: SACK_LIMIT - (1 if out else 0)]
        out += struct.pack(">BBBB", 1, 1, 5, 2 + 8 * len(blocks))
        out += b"".join(struct.pack(">II", start & 0xFFFFFFFF, end & 0xFFFFFFFF) for start, end in blocks)
    return out


def build(addresses: bytes, ports: bytes, seq: int, ack: int, flags: int, window: int, options: bytes = b"") -> bytes:
    """A whole IPv6 packet with a segment without payload. `addresses` = source ‖ destination, `ports` likewise."""
    offset_flags = (HEADER_SIZE + len(options)) // 4 << 12 | flags
    body = ports + struct.pack(">IIHHHH", seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset_flags, window, 0, 0) + options
    return ip.packet(ip.TCP, addresses[:16], addresses[16:], body, checksum_at=16)

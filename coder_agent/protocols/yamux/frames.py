"""The yamux frame header.

Layout: 1 B version (0) ‖ 1 B type ‖ 2 B flags ‖ 4 B stream id ‖ 4 B length, big-endian, 12 bytes. Only data frames have
a body (`length` bytes); elsewhere `length` is a window delta, an opaque ping value or a go-away code.

Source: hashicorp/yamux spec.md.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from ...errors import RemoteProtocolError

VERSION = 0
HEADER_SIZE = 12
INITIAL_WINDOW = 256 * 1024
"""Bytes each side may send on a new stream before the first window update (spec.md, "Flow Control")."""
MAX_UINT32 = 0xFFFF_FFFF

_HEADER = struct.Struct(">BBHII")


class FrameType(IntEnum):
    """What a frame is."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flags(IntFlag):
    """Bits of the flags field."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    """Why a session ends."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class Header(NamedTuple):
    """One frame header."""

    type: FrameType
    flags: int
    stream_id: int
    length: int


def encode_header(kind: FrameType, flags: int, stream_id: int, length: int) -> bytes:
    """The 12 header bytes."""
    return _HEADER.pack(VERSION, kind, flags, stream_id, length)


def decode_header(data: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """Read a header at `offset`; 12 bytes must be there. Raises RemoteProtocolError."""
    version, kind, flags, stream_id, length = _HEADER.unpack_from(data, offset)
    if version != VERSION:
        raise RemoteProtocolError(f"yamux: version {version} instead of {VERSION}")
    if kind > FrameType.GO_AWAY:
        raise RemoteProtocolError(f"yamux: unknown frame type {kind}")
    return Header(FrameType(kind), flags, stream_id, length)

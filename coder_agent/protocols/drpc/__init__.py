"""dRPC: one remote call per byte stream (storj/drpc wire format). `frames` the layout, `stream` one call's state."""

from __future__ import annotations

from .frames import MAX_MESSAGE, SPLIT_SIZE, Kind, Packet, PacketReader, encode_packet
from .stream import (
    UNIMPLEMENTED,
    Cancelled,
    DrpcEvent,
    DrpcStream,
    Failed,
    Invoked,
    MessageReceived,
    RemoteClosed,
    SendClosed,
)

__all__ = [
    "Cancelled",
    "DrpcEvent",
    "DrpcStream",
    "Failed",
    "Invoked",
    "Kind",
    "MAX_MESSAGE",
    "MessageReceived",
    "Packet",
    "PacketReader",
    "RemoteClosed",
    "SPLIT_SIZE",
    "SendClosed",
    "UNIMPLEMENTED",
    "encode_packet",
]

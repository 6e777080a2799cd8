"""TSMP: Tailscale's messages between two nodes, IPv6 next header 99, no checksum.

Layouts: ping ``'p' ‖ 8 B data`` · pong ``'o' ‖ 8 B data ‖ u16 port`` (the node's PeerAPI port, 0 = none) · disco key
advertisement ``'a' ‖ 32 B key`` · rejected connection ``'!' ‖ …`` (ignored). Source: tailscale net/packet/tsmp.go.
"""

from __future__ import annotations

from typing import NamedTuple

from . import ip

PING = ord("p")
PONG = ord("o")
DISCO_KEY = ord("a")

DATA_SIZE = 8
KEY_SIZE = 32
_SIZES = {PING: 1 + DATA_SIZE, PONG: 1 + DATA_SIZE + 2, DISCO_KEY: 1 + KEY_SIZE}


class Message(NamedTuple):
    """A message of one of the three kinds we know: `data` is the ping data, or the key."""

    kind: int
    data: bytes
    port: int = 0


def parse(payload: memoryview) -> Message | None:
    """Read a message; None if it is unknown or too short. Longer ones are accepted: later versions append."""
    if not payload:
        return None
    size = _SIZES.get(payload[0])
    if size is None or len(payload) < size:
        return None
    kind = payload[0]
    if kind == PONG:
        return Message(kind, bytes(payload[1:9]), int.from_bytes(payload[9:11], "big"))
    return Message(kind, bytes(payload[1:size]))


def build(source: bytes, destination: bytes, message: Message) -> bytes:
    """A whole IPv6 packet with `message`."""
    body = bytes([message.kind]) + message.data
    if message.kind == PONG:
        body += message.port.to_bytes(2, "big")
    return ip.packet(ip.TSMP, source, destination, body)

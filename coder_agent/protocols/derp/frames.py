"""DERP frames: types, limits and encoders.

Layout: ``type 1 ‖ length 4 (big-endian, without these 5) ‖ payload``. Every key is 32 raw bytes.
Unknown types are read and discarded by both sides, which is how the protocol grows.

Source: tailscale derp/derp.go @de9ec7ee
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from ...base.addresses import AddrPort
from ...base.keys import KEY_SIZE

PROTOCOL_VERSION = 2
MAGIC = b"DERP\xf0\x9f\x94\x91"
"""Starts the ServerKey payload: "DERP" and U+1F511, a key."""

HEADER_SIZE = 5
PACKET_HEADER_SIZE = HEADER_SIZE + KEY_SIZE
"""37: frame header and key, before the data of SendPacket and RecvPacket. Both have this size, so that a relay can turn
one into the other in place, and a sender can reserve it as headroom."""

MAX_PACKET_SIZE = 64 << 10
"""Largest data of SendPacket, RecvPacket and ForwardPacket (derp.MaxPacketSize)."""
MAX_INFO_SIZE = 1 << 20
"""A client gives up on any frame beyond this (derp_client.go, readFrame limits)."""
MAX_CLIENT_INFO_SIZE = 256 << 10
"""A relay gives up on a ClientInfo beyond this (derpserver.go, recvClientKey)."""
NONCE_SIZE = 24
PING_SIZE = 8
MAX_PING_SIZE = 1000
"""A relay closes a client whose ping is longer (derpserver.go, handleFramePing)."""


class FrameType(IntEnum):
    """The first byte of a frame. C = client, S = server, M = mesh peer."""

    SERVER_KEY = 0x01
    """S→C: magic 8 ‖ key 32 ‖ what the future brings."""
    CLIENT_INFO = 0x02
    """C→S: key 32 ‖ nonce 24 ‖ box(JSON)."""
    SERVER_INFO = 0x03
    """S→C: nonce 24 ‖ box(JSON)."""
    SEND_PACKET = 0x04
    """C→S: destination 32 ‖ data."""
    RECV_PACKET = 0x05
    """S→C: source 32 ‖ data."""
    KEEP_ALIVE = 0x06
    """S→C: empty."""
    NOTE_PREFERRED = 0x07
    """C→S: one byte, 1 if this relay is the client's home."""
    PEER_GONE = 0x08
    """S→C: key 32 ‖ reason 1 (old relays leave the reason out)."""
    PEER_PRESENT = 0x09
    """S→M: key 32 ‖ address 16 ‖ port 2 ‖ flags 1 (also seen without the flags, or with the key alone)."""
    FORWARD_PACKET = 0x0A
    """M→S: source 32 ‖ destination 32 ‖ data."""
    WATCH_CONNS = 0x10
    """M→S: empty; asks for PeerPresent and PeerGone of every client."""
    CLOSE_PEER = 0x11
    """M→S: key 32."""
    PING = 0x12
    """Both: at least 8 opaque bytes, of which 8 come back."""
    PONG = 0x13
    """Both: the 8 bytes."""
    HEALTH = 0x14
    """S→C: UTF-8 text about a problem; empty = healthy again."""
    RESTARTING = 0x15
    """S→C: reconnect in, u32 ms ‖ try for, u32 ms."""


class GoneReason(IntEnum):
    """Why a PeerGone was sent."""

    DISCONNECTED = 0x00
    NOT_HERE = 0x01


class PresentFlag(IntFlag):
    """What kind of client a PeerPresent announces. REGULAR is set only if nothing else is."""

    REGULAR = 1
    MESH_PEER = 2
    PROBER = 4
    NOT_IDEAL = 8


_HEADER = struct.Struct(">BI")
_U32_PAIR = struct.Struct(">II")


def frame(kind: FrameType, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return _HEADER.pack(kind, len(payload)) + payload


def header(kind: FrameType, size: int) -> bytes:
    """The 5 bytes before a payload of `size` bytes."""
    return _HEADER.pack(kind, size)


def packet_header(kind: FrameType, key: bytes, size: int) -> bytes:
    """The 37 bytes before `size` bytes of data in a SendPacket (key = destination) or RecvPacket (key = source)."""
    return _HEADER.pack(kind, KEY_SIZE + size) + key


def send_packet(destination: bytes, data: bytes) -> bytes:
    """C→S: relay `data` to the client with key `destination`."""
    return packet_header(FrameType.SEND_PACKET, destination, len(data)) + data


def recv_packet(source: bytes, data: bytes) -> bytes:
    """S→C: `data` came from the client with key `source`."""
    return packet_header(FrameType.RECV_PACKET, source, len(data)) + data


def forward_packet(source: bytes, destination: bytes, data: bytes) -> bytes:
    """M→S: hand `data` of our client `source` to your client `destination`."""
    return frame(FrameType.FORWARD_PACKET, source + destination + data)


def server_key(public: bytes) -> bytes:
    """S→C, the first frame of a session."""
    return frame(FrameType.SERVER_KEY, MAGIC + public)


def note_preferred(home: bool) -> bytes:
    """C→S: this relay is (not) our home. Only statistics depend on it."""
    return frame(FrameType.NOTE_PREFERRED, b"\x01" if home else b"\x00")


def keep_alive() -> bytes:
    """S→C: nothing to say, still here."""
    return frame(FrameType.KEEP_ALIVE)


def peer_gone(key: bytes, reason: GoneReason) -> bytes:
    """S→C: `key` is no longer, or not, reachable here."""
    return frame(FrameType.PEER_GONE, key + bytes((reason,)))


def peer_present(key: bytes, remote: AddrPort | None, flags: PresentFlag) -> bytes:
    """S→M: `key` is connected here, from `remote` (all zero if not known)."""
    where = bytes(18) if remote is None else remote.packed16() + remote.port.to_bytes(2, "big")
    return frame(FrameType.PEER_PRESENT, key + where + bytes((flags,)))


def ping(opaque: bytes) -> bytes:
    """Ask for `opaque` (8 bytes) back."""
    return frame(FrameType.PING, opaque)


def pong(opaque: bytes) -> bytes:
    """Answer a ping with its first 8 bytes."""
    return frame(FrameType.PONG, bytes(opaque[:PING_SIZE]))


def health(problem: str) -> bytes:
    """S→C: say what is wrong with the client's connection; "" = nothing (any more)."""
    return frame(FrameType.HEALTH, problem.encode())


def restarting(reconnect_in_ms: int, try_for_ms: int) -> bytes:
    """S→C: the relay restarts; come back after the first and keep trying for the second number of milliseconds."""
    return frame(FrameType.RESTARTING, _U32_PAIR.pack(reconnect_in_ms, try_for_ms))


def parse_restarting(payload: bytes) -> tuple[int, int]:
    """Read a Restarting payload of at least 8 bytes: (reconnect in, try for), both in milliseconds."""
    reconnect_in, try_for = _U32_PAIR.unpack_from(payload)
    return reconnect_in, try_for


def parse_peer_present(payload: bytes) -> tuple[bytes, AddrPort | None, PresentFlag]:
    """Read a PeerPresent payload of at least 32 bytes: key, address if told, flags (0 = an old relay)."""
    key = payload[:KEY_SIZE]
    if len(payload) < KEY_SIZE + 18:
        return key, None, PresentFlag(0)
    port = int.from_bytes(payload[48:50], "big")
    flags = PresentFlag(payload[50] & 0x0F) if len(payload) > 50 else PresentFlag(0)
    return key, AddrPort.of(payload[32:48], port), flags

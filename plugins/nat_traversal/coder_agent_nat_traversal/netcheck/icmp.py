"""Ping, where the system lets a program do it: an ICMP datagram socket, else a raw one, else nothing.

Layout (RFC 792): type 8 (echo) ‖ code 0 ‖ checksum(2) ‖ identifier(2) ‖ sequence(2) ‖ data; answers have type 0. On a
datagram socket the kernel chooses the identifier, so answers are told apart by the sequence number and the data.
"""

from __future__ import annotations

import os
import socket
import struct

import anyio

TIMEOUT = 1.0
"""Seconds for an answer. Source: tailscale net/netcheck/netcheck.go (icmpProbeTimeout)."""
ECHO, ECHO_REPLY = 8, 0
COOKIE_SIZE = 16


def encode_echo(identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo request."""
    head = struct.pack("!BBHHH", ECHO, 0, 0, identifier, sequence)
    return struct.pack("!BBHHH", ECHO, 0, checksum(head + data), identifier, sequence) + data


def is_answer(packet: bytes, sequence: int, data: bytes) -> bool:
    """True for the echo reply to `data`; raw sockets deliver it behind an IPv4 header."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        packet = packet[(packet[0] & 15) * 4 :]
    if len(packet) < 8:
        return False
    kind, code, _, _, number = struct.unpack_from("!BBHHH", packet)
    return (kind, code, number) == (ECHO_REPLY, 0, sequence) and packet[8:] == data


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def ping(address: str, timeout: float = TIMEOUT) -> float | None:
    """Seconds to an IPv4 `address` and back; None if it does not answer or we may not ask."""
    sock = _open()
    if sock is None:
        return None
    with sock:
        sequence, data = 1, os.urandom(COOKIE_SIZE)
        try:
            started = anyio.current_time()
            sock.sendto(encode_echo(os.getpid() & 0xFFFF, sequence, data), (address, 0))
        except OSError:
            return None
        with anyio.move_on_after(timeout):
            while True:
                await anyio.wait_readable(sock)
                try:
                    packet, source = sock.recvfrom(2048)
                except BlockingIOError:
                    continue
                except OSError:  # "destination unreachable", told to this socket
                    return None
                if source[0] == address and is_answer(packet, sequence, data):
                    return max(anyio.current_time() - started, 1e-6)
    return None


def _open() -> socket.socket | None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            sock = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        except OSError:
            continue
        sock.setblocking(False)
        return sock
    return None

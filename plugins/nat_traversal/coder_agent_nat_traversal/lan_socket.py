"""UDP sockets for talking to the router and to the local network. Never the data socket."""

from __future__ import annotations

import socket
import struct

from coder_agent.base.addresses import AddrPort

MAX_DATAGRAM = 2049
"""Bytes read of a datagram: one more than the longest that any parser of ours takes."""


def open_udp(own: str) -> socket.socket:
    """A non-blocking IPv4 socket on a free port of `own`; multicast leaves through that interface, for one hop.

    Raises OSError (`own` is no address of ours any more).
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((own, 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    except BaseException:
        sock.close()
        raise
    return sock


def open_group(own: str, group: str, port: int) -> socket.socket:
    """A non-blocking socket that hears what is sent to a multicast group on the interface of `own`.

    Bound to the group's address where the system can do that, so that it takes no unicast packet from another program
    on the same port. Raises OSError.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind((group, port))
        except OSError:
            sock.bind(("", port))
        member = struct.pack("!4s4s", socket.inet_aton(group), socket.inet_aton(own))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except BaseException:
        sock.close()
        raise
    return sock


def send(sock: socket.socket, data: bytes, host: str, port: int) -> None:
    """Send, or lose it as any datagram may get lost."""
    try:
        sock.sendto(data, (host, port))
    except OSError:
        return


def receive(sock: socket.socket) -> tuple[bytes, AddrPort] | None:
    """The next datagram; None when there is none, or an ICMP error in its place."""
    try:
        data, (host, port) = sock.recvfrom(MAX_DATAGRAM)
    except OSError:
        return None
    return data, AddrPort(host, port)

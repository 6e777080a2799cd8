"""Opening a data socket: bind, buffers, offload. What the kernel lacks is done without."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from .addresses import SockAddr
from .settings import UdpSettings

log = logging.getLogger(__name__)

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
"""Linux numbers that the socket module does not export. Source: linux/udp.h, asm-generic/socket.h."""

_LINUX = sys.platform == "linux"
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_FORBID_FRAGMENTS = 2
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER with the value IP_PMTUDISC_DO. Source: linux/in.h, linux/in6.h."""


@dataclass(slots=True)
class BoundSocket:
    """A non-blocking, unconnected UDP socket. Unconnected, because a connected one reports a peer's ICMP errors in
    place of the next call's own result."""

    sock: socket.socket
    port: int
    receive_buffer: int
    send_buffer: int
    gso: bool
    gro: bool


def open_socket(family: socket.AddressFamily, ports: Iterable[int], settings: UdpSettings) -> BoundSocket | None:
    """Bind the first of `ports` that is free, then any; None when the host does not have this family."""
    try:
        sock = _bind(family, [*ports, 0])
    except OSError as error:
        log.debug("no UDP socket for %s: %s", family.name, error)
        return None
    grow_buffers(sock, settings)
    return _describe(sock, settings)


def open_small_socket(settings: UdpSettings) -> BoundSocket | None:
    """An IPv4 socket on any port with the system's usual buffers, for `grow_buffers` once it has to carry data; None
    when there are no more (file descriptors, ports)."""
    try:
        return _describe(_bind(socket.AF_INET, [0]), settings)
    except OSError as error:
        log.debug("no further UDP socket: %s", error)
        return None


def grow_buffers(sock: socket.socket, settings: UdpSettings) -> None:
    """Buffers for a socket that carries data."""
    _grow(sock, SO_RCVBUFFORCE, socket.SO_RCVBUF, settings.receive_buffer)
    _grow(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF, settings.send_buffer)


def _describe(sock: socket.socket, settings: UdpSettings) -> BoundSocket:
    return BoundSocket(
        sock,
        sock.getsockname()[1],
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        gso=settings.use_gso and _has_gso(sock),
        gro=settings.use_gro and _enable_gro(sock),
    )


def _bind(family: socket.AddressFamily, ports: Iterable[int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        failure: OSError | None = None
        for port in dict.fromkeys(ports):
            try:
                sock.bind(("", port))
            except OSError as error:
                failure = error
            else:
                return sock
        raise failure or OSError("no port to bind")
    except BaseException:
        sock.close()
        raise


def _grow(sock: socket.socket, force: int, plain: int, size: int) -> None:
    """Ask for a buffer of `size` bytes: beyond the system's limit if we may (CAP_NET_ADMIN), else as far as it goes."""
    for option in (force, plain) if _LINUX else (plain,):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            continue
        return


def _has_gso(sock: socket.socket) -> bool:
    """Linux 4.18 and later. Whether the path can do it shows when sending."""
    if not _LINUX:
        return False
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def _enable_gro(sock: socket.socket) -> bool:
    """Linux 5.0 and later. Success promises nothing: packets may still come one by one (receiver.py copes)."""
    if not _LINUX or not hasattr(sock, "recvmsg_into"):
        return False
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def send_unfragmented(sock: socket.socket, packet: memoryview, sockaddr: SockAddr) -> bool:
    """Send one packet that the kernel may not cut up, nor any router (IPv4's DF). False = not sent: it is too large for
    the local link (or for the path, as far as the kernel knows that), or this system cannot promise it.

    Data may be cut up by the kernel where an interface is too narrow for it, so the option is on for this call only.
    """
    if not _LINUX:
        return False
    level, option = _MTU_DISCOVER[sock.family]
    usual = sock.getsockopt(level, option)
    sock.setsockopt(level, option, _FORBID_FRAGMENTS)
    try:
        sock.sendto(packet, sockaddr)
    except OSError:
        return False
    finally:
        sock.setsockopt(level, option, usual)
    return True

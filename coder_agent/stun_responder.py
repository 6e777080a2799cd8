"""A STUN responder on a UDP port of its own: tells nodes under which address we see them (RFC 8489)."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from .base.addresses import AddrPort
from .errors import ConfigError
from .protocols.stun import respond

log = logging.getLogger(__name__)

REQUESTS_PER_WAKE = 64
"""Answered before others have a turn."""
MAX_REQUEST = 1500
"""Bytes read of a request: a longer one is cut off, and so no STUN."""
IP_PKTINFO: int | None = 8 if sys.platform == "linux" else None  # linux/in.h; Python names it from 3.14 on
IPV6_PKTINFO, IPPROTO_IPV6 = getattr(socket, "IPV6_PKTINFO", 50), socket.IPPROTO_IPV6
IN_PKTINFO, IN6_PKTINFO = struct.Struct("=i4s4s"), struct.Struct("=16sI")
"""struct in_pktinfo: interface, the address to answer from, the header's; struct in6_pktinfo (ip(7), RFC 3542 §6.2)."""
ANCILLARY_BYTES = 256
MULTICAST, LINK_LOCAL = 0xFF, b"\xfe\x80"


class StunResponder(asyncio.DatagramProtocol):
    """Answers binding requests, counts everything else."""

    def __init__(self) -> None:
        self.answered = 0
        self.ignored = 0
        self._transport: asyncio.DatagramTransport | None = None

    def reply(self, data: bytes, addr: tuple[object, ...]) -> bytes | None:
        """What to answer to a datagram from `addr`, if anything."""
        answer = respond(data, AddrPort.of(str(addr[0]).partition("%")[0], int(str(addr[1]))))
        if answer is None:
            self.ignored += 1
        else:
            self.answered += 1
        return answer

    def drain(self, sock: socket.socket) -> None:
        """Answer what waits at `sock`, from the address that each request was sent to: a client behind a NAT, or one
        that checks who answers, takes no other (RFC 8489 §6.3.1). On a socket that is bound to all addresses of a
        machine with several, the system would choose one."""
        for _ in range(REQUESTS_PER_WAKE):
            try:
                data, control, _, addr = sock.recvmsg(MAX_REQUEST, ANCILLARY_BYTES)
            except OSError:  # nothing there, or an ICMP error for an earlier reply: nobody is waiting for that
                return
            answer = self.reply(data, addr)
            if answer is None:
                continue
            try:
                sock.sendmsg([answer], _asked_at(control), 0, addr)
            except OSError:
                pass  # full, or unreachable: the client asks again

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is ready."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own class does not say that it is one

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        """asyncio: a datagram."""
        answer = self.reply(data, addr)
        if answer is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)

    def error_received(self, exc: Exception) -> None:
        """asyncio: an ICMP error for an earlier reply. Nobody is waiting for it."""


def _asked_at(control: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Ancillary data for a reply: from the address, and for link-local ones the interface, that was asked."""
    found: list[tuple[int, int, bytes]] = []
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(value) >= IN_PKTINFO.size:
            _, local, _ = IN_PKTINFO.unpack_from(value)
            found = [(level, kind, IN_PKTINFO.pack(0, local, bytes(4)))]
        elif (level, kind) == (IPPROTO_IPV6, IPV6_PKTINFO) and len(value) >= IN6_PKTINFO.size:
            local, interface = IN6_PKTINFO.unpack_from(value)
            if local[0] != MULTICAST:
                scoped = local[:2] == LINK_LOCAL
                return [(level, kind, IN6_PKTINFO.pack(local, interface if scoped else 0))]
    return found


@asynccontextmanager
async def serve_stun(host: str, port: int, *, exact: bool) -> AsyncIterator[AddrPort | None]:
    """Answer STUN at `host`:`port`; yields where really. A taken port is replaced by any free one, with a warning.

    Raises: ConfigError when `exact` and the address cannot be had. Yields None when nothing could be bound.
    """
    found = await asyncio.to_thread(_bind, host, port, exact)
    if found is None:
        yield None
        return
    bound = found.getsockname()
    async with _answering(found):
        yield AddrPort(str(bound[0]), int(bound[1]))


@asynccontextmanager
async def _answering(sock: socket.socket) -> AsyncIterator[None]:
    """Serve until the block ends, then close `sock`."""
    loop, responder = asyncio.get_running_loop(), StunResponder()
    if not _ask_for_addresses(sock):
        transport, _protocol = await loop.create_datagram_endpoint(lambda: responder, sock=sock)
        try:
            yield
        finally:
            transport.close()
        return
    loop.add_reader(sock, responder.drain, sock)
    try:
        yield
    finally:
        loop.remove_reader(sock)
        sock.close()


def _ask_for_addresses(sock: socket.socket) -> bool:
    """Have the system tell to which of our addresses each datagram came. False where it cannot."""
    if IP_PKTINFO is None or not hasattr(sock, "recvmsg"):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    except OSError:
        return False
    return True


def _bind(host: str, port: int, exact: bool) -> socket.socket | None:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return _bound(host, port)
    except OSError as exc:
        if exact:
            raise ConfigError(
                f"cannot listen for STUN on {where} (UDP): {exc.strerror or exc}",
                hint="choose another --stun-address, or `disable`",
            ) from exc
        reason = exc.strerror or str(exc)
    try:
        other = _bound(host, 0)
    except OSError:
        log.warning("no STUN: %s (UDP) cannot be had: %s", where, reason)
        return None
    log.warning("STUN listens on UDP port %d, because %s cannot be had: %s", other.getsockname()[1], where, reason)
    return other


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[
        0
    ]
    found = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:  # `::` shall serve IPv4 too, whatever the system's default is
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.setblocking(False)
        found.bind(target)
    except OSError:
        found.close()
        raise
    return found

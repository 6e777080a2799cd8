"""A STUN responder on a UDP port of its own: tells nodes under which address we see them (RFC 8489)."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from .base.addresses import AddrPort
from .errors import ConfigError
from .protocols.stun import respond

log = logging.getLogger(__name__)


class StunResponder(asyncio.DatagramProtocol):
    """Answers binding requests, counts everything else."""

    def __init__(self) -> None:
        self.answered = 0
        self.ignored = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is ready."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own class does not say that it is one

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        """asyncio: a datagram."""
        reply = respond(data, AddrPort.of(str(addr[0]).partition("%")[0], int(str(addr[1]))))
        if reply is None or self._transport is None or self._transport.is_closing():
            self.ignored += 1
            return
        self.answered += 1
        self._transport.sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """asyncio: an ICMP error for an earlier reply. Nobody is waiting for it."""


@asynccontextmanager
async def serve_stun(host: str, port: int, *, exact: bool) -> AsyncIterator[AddrPort | None]:
    """Answer STUN at `host`:`port`; yields where really. A taken port is replaced by any free one, with a warning.

    Raises: ConfigError when `exact` and the address cannot be had. Yields None when nothing could be bound.
    """
    found = await asyncio.to_thread(_bind, host, port, exact)
    if found is None:
        yield None
        return
    loop = asyncio.get_running_loop()
    transport, _protocol = await loop.create_datagram_endpoint(StunResponder, sock=found)
    try:
        bound = found.getsockname()
        yield AddrPort(str(bound[0]), int(bound[1]))
    finally:
        transport.close()


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

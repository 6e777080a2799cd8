"""The embedded STUN responder: tells nodes under which address we see them, so that they can go direct."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from coder_agent.base.addresses import AddrPort
from coder_agent.errors import ConfigError
from coder_agent.protocols.stun import respond

from .options import HostPort

logger = logging.getLogger("coder_agent.server")


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
async def open_stun(address: HostPort, *, exact: bool) -> AsyncIterator[HostPort | None]:
    """Answer STUN at `address`; yields where really. A taken default port is replaced by any free one, with a warning.

    Raises: ConfigError when `exact` and the address cannot be had. Yields None when nothing could be bound.
    """
    found = await asyncio.to_thread(_bind, address, exact)
    if found is None:
        yield None
        return
    loop = asyncio.get_running_loop()
    transport, _protocol = await loop.create_datagram_endpoint(StunResponder, sock=found)
    try:
        host, port = found.getsockname()[:2]
        yield HostPort(str(host), int(port))
    finally:
        transport.close()


def _bind(address: HostPort, exact: bool) -> socket.socket | None:
    try:
        return _bound(address)
    except OSError as exc:
        if exact:
            raise ConfigError(
                f"cannot listen for STUN on {address} (UDP): {exc.strerror or exc}",
                hint="choose another --stun-address, or `disable`",
            ) from exc
        reason = exc.strerror or str(exc)
    try:
        other = _bound(HostPort(address.host, 0))
    except OSError:
        logger.warning("no STUN: %s (UDP) cannot be had: %s", address, reason)
        return None
    logger.warning("STUN listens on UDP port %d, because %s cannot be had: %s", other.getsockname()[1], address, reason)
    return other


def _bound(address: HostPort) -> socket.socket:
    family, kind, protocol, _, target = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )[0]
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

"""The shell around zeroconf: announces one service on some interfaces, and reports who else appears there.

zeroconf bounds what a flood can make it keep (10,000 records, evicting the oldest) and drops what it cannot parse.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

import anyio
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from .lan import Found
from .names import SERVICE_TYPE

LOOK_UP_TIMEOUT = 1500
"""Milliseconds that a look-up waits for answers: three questions, 200 ms and a second apart."""
CLOSE_TIMEOUT = 2.0
"""Seconds for zeroconf to close its sockets."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is announced, and where. `bind`: IPv4 addresses and IPv6 interface numbers to announce and listen on."""

    name: str
    addresses: tuple[str, ...]
    port4: int
    port6: int
    bind: tuple[str | int, ...]


class Responder(Protocol):
    """An open responder."""

    async def look_up(self, name: str) -> Found | None:
        """What the instance announces; None if nobody says anything about it."""
        ...


Heard = Callable[[str, bool], None]
"""Called with a full service name, and whether it is there (announced, changed) or gone."""
OpenResponder = Callable[[Announcement, Heard], AbstractAsyncContextManager[Responder]]


class _Zeroconf:
    def __init__(self, zeroconf: Zeroconf) -> None:
        self._zeroconf = zeroconf

    async def look_up(self, name: str) -> Found | None:
        info = AsyncServiceInfo(SERVICE_TYPE, f"{name}.{SERVICE_TYPE}")
        if not await info.async_request(self._zeroconf, LOOK_UP_TIMEOUT):
            return None
        port = info.port or 0
        return Found(tuple(info.parsed_addresses(IPVersion.All)), port, _port6(info.properties, port))


@asynccontextmanager
async def open_responder(announcement: Announcement, heard: Heard) -> AsyncIterator[Responder]:
    """Announce, listen, and say goodbye at the end. Raises OSError where multicast or port 5353 is not to be had."""
    _quieten()
    responder = AsyncZeroconf(interfaces=list(announcement.bind))
    zeroconf = responder.zeroconf
    repeats: asyncio.Future[Any] | None = None
    try:
        await zeroconf.async_wait_for_start()
        AsyncServiceBrowser(
            zeroconf,
            SERVICE_TYPE,
            handlers=[
                lambda zeroconf, service_type, name, state_change: heard(
                    name, state_change is not ServiceStateChange.Removed
                )
            ],
        )
        # Nobody else has this name, so there is nothing to probe for: that saves 1.7 s.
        repeats = asyncio.ensure_future(
            await responder.async_register_service(_service(announcement), cooperating_responders=True)
        )
        yield _Zeroconf(zeroconf)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT):
            if repeats is not None:
                repeats.cancel()
            goodbye = zeroconf.generate_unregister_all_services()
            if goodbye is not None:  # once: who misses it finds out by the silence, and nobody waits for our exit
                zeroconf.async_send(goodbye)
            await responder.async_close()


def _service(announcement: Announcement) -> AsyncServiceInfo:
    properties = {"v": "1"}
    if announcement.port6 and announcement.port6 != announcement.port4:
        properties["p6"] = str(announcement.port6)
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{announcement.name}.{SERVICE_TYPE}",
        port=announcement.port4 or announcement.port6,
        addresses=[ip_address(address).packed for address in announcement.addresses],
        properties=properties,
        server=f"{announcement.name}.local.",
    )


def _port6(properties: dict[bytes, bytes | None], port: int) -> int:
    """The port for IPv6: TXT ``p6`` if there is one, else that of the SRV record. 0 if it is nonsense."""
    text = properties.get(b"p6")
    if text is None:
        return port
    return int(text) if len(text) <= 5 and text.isdigit() else 0


def _quieten() -> None:
    """zeroconf warns, with tracebacks, of every interface that goes away and of every packet it cannot read."""
    logger = logging.getLogger("zeroconf")
    if logger.level in (logging.NOTSET, logging.WARNING):
        logger.setLevel(logging.ERROR)

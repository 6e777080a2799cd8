"""Names of STUN servers to addresses, never longer than a moment and not again every round."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio

from coder_agent.hooks import Egress, Purpose
from coder_agent.hooks.egress import OPEN

from .interfaces import Family

LOOKUP_TIMEOUT = 2.0
"""Seconds; a round lasts three, and a later try may use what comes too late for this one."""
CACHE_LIFE = 300.0
"""Seconds that a found address is used: a full round's interval."""
CACHE_LIMIT = 1024

Lookup = Callable[[str, Family], Awaitable[str]]


async def look_up(host: str, family: Family) -> str:
    """Ask the system's resolver. Raises OSError."""
    wanted = socket.AF_INET if family == "v4" else socket.AF_INET6
    found = await anyio.getaddrinfo(host, None, family=wanted, type=socket.SOCK_DGRAM)
    return str(found[0][4][0])


class Resolver:
    """Caches what was found; failures are tried again. Names that `egress` forbids are not looked up."""

    def __init__(self, lookup: Lookup = look_up, egress: Egress = OPEN) -> None:
        self._lookup = lookup
        self._egress = egress
        self._cache: dict[tuple[str, Family], tuple[str, float]] = {}

    async def resolve(self, host: str, family: Family, port: int = 0) -> str | None:
        """An address of `host`, or None when it has none, nobody says so in time, or it is forbidden (at `port`)."""
        if not self._egress.allows(host, port, Purpose.LOOKUP):
            return None
        address = await self._cached(host, family)
        return address if address and self._egress.found(host, port, Purpose.LOOKUP, [address]) else None

    async def _cached(self, host: str, family: Family) -> str | None:
        now = anyio.current_time()
        known = self._cache.get((host, family))
        if known is not None and known[1] > now:
            return known[0]
        with anyio.move_on_after(LOOKUP_TIMEOUT):
            try:
                address = await self._lookup(host, family)
            except (OSError, UnicodeError):  # UnicodeError: no name that DNS could carry
                return None
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            self._cache[host, family] = (address, now + CACHE_LIFE)
            return address
        return None

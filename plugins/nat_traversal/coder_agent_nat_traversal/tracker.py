"""Endpoints seen lately stay on offer for a while, so that one lost answer does not withdraw a good one. Pure."""

from __future__ import annotations

from coder_agent.base.addresses import AddrPort

LIFE = 310.0
"""Seconds (5 min 10 s): a full round's interval and some. Source: tailscale wgengine/magicsock/endpoint_tracker.go."""
PER_ADDRESS = 6
"""Endpoints kept per IP address: a NAT that changes ports would otherwise fill the list. Same source."""
TOTAL = 16
"""A bound for the whole list: servers name whatever addresses they like."""


class EndpointTracker:
    """Remembers when each endpoint was last seen."""

    def __init__(self) -> None:
        self._seen: dict[AddrPort, float] = {}

    def note(self, addr: AddrPort, now: float) -> None:
        """`addr` was seen; of too many with the same address, the one seen longest ago goes."""
        self._seen.pop(addr, None)
        self._seen[addr] = now
        same = [other for other in self._seen if other.host == addr.host]
        for old in same[:-PER_ADDRESS]:
            del self._seen[old]
        for old in list(self._seen)[:-TOTAL]:
            del self._seen[old]

    def forget(self, addr: AddrPort) -> None:
        """`addr` was never ours."""
        self._seen.pop(addr, None)

    def recent(self, now: float) -> list[AddrPort]:
        """Those not older than `LIFE`, the latest first."""
        self._seen = {addr: at for addr, at in self._seen.items() if now - at <= LIFE}
        return list(reversed(self._seen))

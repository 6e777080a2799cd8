"""The relay map that this deployment tells everybody: its own relay, and STUN servers if any were configured."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import ConfigError

from .options import AccessUrl, HostPort, RelayOptions, ServerOptions

STUN_REGION_BASE = 1000
"""STUN-only regions are numbered from here, above the embedded relay's usual id. Source: coder tailnet/derpmap.go."""


def build_derp_map(options: ServerOptions, access_url: AccessUrl, stun_port: int | None) -> DerpMap:
    """Our own part of the map. `stun_port` = where the embedded responder really listens, None without one.

    Raises: ConfigError if two of its regions have one id.
    """
    regions: dict[int, DerpRegion] = {}
    if options.relay.enable:
        regions[options.relay.region_id] = _own_region(options.relay, access_url, stun_port)
    for number, server in enumerate(() if options.block_direct else options.relay.stun_addresses, STUN_REGION_BASE):
        if number in regions:
            raise ConfigError(
                f"relay region {number} exists twice: derp_server_region_id and a STUN server both claim it",
                hint=f"choose a region id below {STUN_REGION_BASE}",
            )
        regions[number] = _stun_region(number, server)
    return DerpMap(regions=regions)


def _own_region(relay: RelayOptions, access_url: AccessUrl, stun_port: int | None) -> DerpRegion:
    node = DerpNode(
        name=f"{relay.region_id}b",
        region_id=relay.region_id,
        host_name=access_url.host,
        derp_port=access_url.port,
        stun_port=stun_port if stun_port is not None else -1,
        force_http=access_url.scheme == "http",
    )
    return DerpRegion(relay.region_id, relay.region_code, relay.region_name, (node,), embedded_relay=True)


def _stun_region(number: int, server: HostPort) -> DerpRegion:
    node = DerpNode(f"{number}stun0", number, server.host, stun_port=server.port, stun_only=True)
    return DerpRegion(number, f"coder_stun_{number}", f"Coder STUN {number}", (node,))


class LiveDerpMap:
    """The map in force, and word of changes to whoever streams it."""

    def __init__(self, current: DerpMap) -> None:
        self._current = current
        self._changed = anyio.Event()

    @property
    def current(self) -> DerpMap:
        """The newest map."""
        return self._current

    def replace(self, new: DerpMap) -> None:
        """Put a new map in force; the same one again wakes nobody."""
        if new != self._current:
            self._current = new
            self._changed.set()
            self._changed = anyio.Event()

    async def follow(self) -> AsyncIterator[DerpMap]:
        """The current map at once, then every later one. Never ends: the end would make clients redial."""
        while True:
            changed = self._changed
            yield self._current
            await changed.wait()

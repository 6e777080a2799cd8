"""The relay map that this deployment tells everybody: its own relay, and STUN servers if any were configured."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import ConfigError

from .options import AccessUrl, ServerOptions

STUN_REGION_BASE = 1000
"""STUN-only regions are numbered from here, above the embedded relay's usual id. Source: coder tailnet/derpmap.go."""


def build_derp_map(options: ServerOptions, access_url: AccessUrl, stun_port: int | None) -> DerpMap:
    """The map. `stun_port` = where the embedded responder really listens, None without one.

    Raises: ConfigError when nobody could relay.
    """
    relay = options.relay
    regions: dict[int, DerpRegion] = {}
    if relay.enable:
        node = DerpNode(
            name=f"{relay.region_id}b",
            region_id=relay.region_id,
            host_name=access_url.host,
            derp_port=access_url.port,
            stun_port=stun_port if stun_port is not None else -1,
            force_http=access_url.scheme == "http",
        )
        regions[relay.region_id] = DerpRegion(
            region_id=relay.region_id,
            region_code=relay.region_code,
            region_name=relay.region_name,
            nodes=(node,),
            embedded_relay=True,
        )
    if not options.block_direct:
        for number, server in enumerate(relay.stun_addresses, start=STUN_REGION_BASE):
            if number in regions:
                raise ConfigError(
                    f"relay region {number} exists twice: derp_server_region_id and a STUN server both claim it",
                    hint=f"choose a region id below {STUN_REGION_BASE}",
                )
            stun = DerpNode(
                name=f"{number}stun0",
                region_id=number,
                host_name=server.host,
                stun_port=server.port,
                stun_only=True,
            )
            regions[number] = DerpRegion(
                region_id=number, region_code=f"coder_stun_{number}", region_name=f"Coder STUN {number}", nodes=(stun,)
            )
    if not any(not node.stun_only for region in regions.values() for node in region.nodes):
        raise ConfigError(
            "the relay map has no relay: the embedded one is off and there is no other",
            hint="leave derp_server_enable on",
        )
    return DerpMap(regions=regions)


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

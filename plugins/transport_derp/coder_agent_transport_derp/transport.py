"""The relay transport of a node: regions by id, which one is home, and which one reaches whom."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import anyio

from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import DerpPath, Path
from coder_agent.errors import ConfigError
from coder_agent.hooks.interfaces import Transport, TransportContext
from coder_agent.protocols.derp.client import PeerGone
from coder_agent.protocols.derp.frames import PACKET_HEADER_SIZE, GoneReason

from .region import Region, Shared

IDLE_AFTER = 60.0
"""Seconds without a write after which a region that is not home is closed (magicsock/derp.go)."""
IDLE_SWEEP = 15.0
"""Seconds between looks at that."""
TICK = 1.0
"""Seconds between looks at connections that have gone silent; their limit is 120."""
ROUTES = 4096
"""Peers whose region is remembered."""


class DerpTransportFactory:
    """What the hook offers."""

    name = "derp"
    kind: Literal["direct", "relay"] = "relay"

    @asynccontextmanager
    async def open(self, context: TransportContext) -> AsyncGenerator[Transport]:
        """Nothing is dialled before `set_home` or the first `send`. Raises ConfigError without asyncio."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError("the DERP transport needs the asyncio backend") from None
        async with anyio.create_task_group() as tasks:
            transport = DerpTransport(Shared(context, tasks))
            tasks.start_soon(transport.run)
            try:
                yield transport
            finally:
                transport.close()
                tasks.cancel_scope.cancel()


class DerpTransport:
    """A RelayTransport."""

    name = "derp"
    headroom = PACKET_HEADER_SIZE

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._regions: dict[int, Region] = {}
        self._routes: dict[NodePublic, int] = {}
        self._home = 0
        self._now = asyncio.get_running_loop().time
        shared.seen_at = self._seen_at
        shared.gone_from = self._gone_from
        shared.writable = self._writable

    def set_map(self, derp_map: DerpMap) -> None:
        """A new relay map: regions that changed or vanished are closed, the home included."""
        for region_id, region in list(self._regions.items()):
            definition = derp_map.regions.get(region_id)
            if definition == region.definition:
                continue
            del self._regions[region_id]
            self._shared.websocket_reasons.pop(region_id, None)  # it may be another server now
            self._forget_routes(region_id)
            region.close("the relay map changed" if definition else "the region left the relay map")
        for region_id, definition in derp_map.regions.items():
            if region_id not in self._regions and definition.has_relay:
                self._regions[region_id] = Region(definition, self._shared)
        if self._home in self._regions:
            self._regions[self._home].set_home(True)

    def set_home(self, region: int) -> None:
        """Keep `region` connected for ever and tell every connected relay which one is home. 0 = none yet."""
        self._home = region
        for region_id, candidate in self._regions.items():
            if candidate.home or region_id == region:
                candidate.set_home(region_id == region)

    def reconnect(self, reason: str) -> None:
        """Close every connection; the home's, and those in use, are dialled again at once."""
        for region in self._regions.values():
            region.reconnect(reason)

    def link_changed(self) -> None:
        """The network under us changed: what is dead is dialled anew at once, what may be dead within seconds."""
        for region in self._regions.values():
            region.link_changed()

    def doubt(self, region: int) -> None:
        """Have the relay of `region` asked for a sign of life (DoubtingTransport)."""
        found = self._regions.get(region)
        if found is not None and found.connection is not None:
            found.connection.doubt()

    def keep_warm(self, region: int) -> None:
        """Dial `region` if need be, and do not let it go idle for another minute."""
        found = self._regions.get(region)
        if found is not None:
            found.keep_warm()

    def forced_websocket(self) -> Mapping[int, str]:
        """Regions that `Upgrade: DERP` does not reach, with what was answered instead."""
        return dict(self._shared.websocket_reasons)

    def connected(self, region: int) -> bool:
        """True while logged in there."""
        found = self._regions.get(region)
        return found is not None and found.connection is not None and found.connection.usable

    def send(self, burst: Burst, path: Path) -> bool:
        """Write `burst` with one system call; its 37 bytes of headroom per packet are overwritten."""
        if not isinstance(path, DerpPath):
            self._shared.counters["drop_not_mine"] += burst.count
            return True
        region = self._region_for(path)
        if region is None:
            self._shared.counters["drop_unknown_region"] += burst.count
            return True
        if not region.send(burst, path.key):
            return False
        self._shared.counters["packets_sent"] += burst.count
        return True

    def stats(self) -> Mapping[str, int]:
        """Packets, connects, failures, and drops by reason."""
        connections = sum(1 for region in self._regions.values() if region.connection is not None)
        return {"connections": connections, **self._shared.counters}

    async def run(self) -> None:
        """Watch over the connections until cancelled."""
        swept_at = self._now()
        while True:
            await anyio.sleep(TICK)
            now = self._now()
            sweep = now - swept_at >= IDLE_SWEEP
            if sweep:
                swept_at = now
            for region in list(self._regions.values()):
                region.tick(now, IDLE_AFTER if sweep else None)

    def close(self) -> None:
        """Close every connection."""
        for region in self._regions.values():
            region.close("closed by this program")
        self._regions.clear()

    def _region_for(self, path: DerpPath) -> Region | None:
        """The peer's home region if connected; else a connected one where it was heard; else its home, dialled."""
        region = self._regions.get(path.region)
        if region is not None and region.connection is not None:
            return region
        heard_at = self._routes.get(path.key)
        other = None if heard_at is None else self._regions.get(heard_at)
        return other if other is not None and other.connection is not None else region

    def _seen_at(self, key: NodePublic, region: int) -> None:
        if key not in self._routes and len(self._routes) >= ROUTES:
            del self._routes[next(iter(self._routes))]
        self._routes[key] = region

    def _gone_from(self, gone: PeerGone, region: int) -> None:
        if self._routes.get(gone.peer) == region:
            del self._routes[gone.peer]
        here = gone.reason is GoneReason.NOT_HERE
        error = OSError(
            errno.EHOSTUNREACH if here else errno.ECONNRESET,
            "not connected to this relay" if here else "disconnected from this relay",
        )
        self._shared.context.sink.on_path_error(DerpPath(region, gone.peer), error)

    def _forget_routes(self, region: int) -> None:
        for key in [key for key, where in self._routes.items() if where == region]:
            del self._routes[key]

    def _writable(self) -> None:
        self._shared.context.sink.on_writable(self)

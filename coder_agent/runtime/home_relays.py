"""Which relays a node stays connected to: its home region, and a second one for when that fails.

magicsock.home decides from a relay map and latencies; here is when it is asked, and who is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import anyio

from ..base.derp_map import DerpMap
from ..base.node import Node
from ..magicsock.home import choose_home
from ..magicsock.standby import second_home
from .engine import Engine

STANDBY_TICK = 2.0
"""Seconds between looks at the second relay: well below the 10 s for which one `keep_warm` holds."""
HOME_PATIENCE = 1.0
"""Seconds to wait for a first latency before a home region is chosen without one."""


class HomeRelays:
    """Home and second region of one node, over its engine.

    `latency` tells what was measured, in seconds by region; None = nobody measures. `published` is our node as peers
    see it; `changed` is called when it has changed by what was chosen here.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        latency: Callable[[], Mapping[int, float] | None],
        published: Callable[[], Node],
        changed: Callable[[], None],
    ) -> None:
        self.map = DerpMap()
        self.home = 0
        self._engine = engine
        self._latency, self._published, self._changed = latency, published, changed
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_reachable(self) -> bool:
        """Are we at a relay where peers send? At home; or, while that is down, at the second one."""
        relay, standby = self._engine.relay, self._engine.standby
        if relay is None or relay.connected(self.home):
            return True
        return self.home in standby.down and bool(standby.second) and relay.connected(standby.second)

    def choose(self, *, patient: bool) -> None:
        """Choose home; `patient`: with several regions and no latency yet, wait a moment for the first one."""
        engine, measured = self._engine, self._latency()
        latency = measured or {}
        eligible = [rid for rid, region in self.map.regions.items() if region.may_be_home]
        wish = engine.magicsock.rules.prefer_region
        unsure = not latency and len(eligible) > 1 and wish not in eligible  # a wish needs no measurement
        if patient and unsure and measured is not None and self.home not in eligible:
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(HOME_PATIENCE, lambda: self.choose(patient=False))
            return
        home = choose_home(self._without_dead(), latency, self.home, wish)
        if home != self.home:
            self.home = home
            engine.magicsock.set_home(home)
            if engine.relay is not None:
                engine.relay.set_home(home)
            self._changed()
        self._choose_second()

    def set_peer(self, peer: Node) -> None:
        """Where a peer is found, by what it publishes."""
        second = second_home(self.map, peer.preferred_derp, peer.derp_latency)
        self._engine.standby.set_peer(peer.key, peer.preferred_derp, second)

    async def run(self) -> None:
        """Keep the second region connected, and leave a home that stays down."""
        while True:
            self.choose(patient=True)
            await anyio.sleep(STANDBY_TICK)

    def stop(self) -> None:
        """The node ends."""
        if self._timer is not None:
            self._timer.cancel()

    def _without_dead(self) -> DerpMap:
        """The relay map without regions that have been down for a while, if it has others."""
        dead = self._engine.standby.given_up(self._engine.now())
        living = {rid: region for rid, region in self.map.regions.items() if rid not in dead}
        if not any(region.may_be_home for region in living.values()):
            return self.map
        return replace(self.map, regions=living)

    def _choose_second(self) -> None:
        """By what we publish and nothing else: peers compute the same from it."""
        standby, node = self._engine.standby, self._published()
        standby.home = node.preferred_derp
        standby.second = second_home(self.map, node.preferred_derp, node.derp_latency)
        if standby.second:  # at once: home may die before the next look
            self._engine.keep_warm(standby.second)

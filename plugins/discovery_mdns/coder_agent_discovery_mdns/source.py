"""The candidate source: which of our peers are on our LANs, and where?

Own endpoints are not published here (the source "local" does that): this one tells neighbours of us by multicast, and
us of them by `suggest`. A suggestion is only an address to try; whether the peer is there, a disco pong says.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from coder_agent.base.keys import NodePublic
from coder_agent.hooks import CandidateContext

from .lan import Lan, announced, believable, lans_of, read_lans
from .names import instance_name, name_of

if TYPE_CHECKING:
    from .responder import Announcement, OpenResponder, Responder

log = logging.getLogger(__name__)

POLL_INTERVAL = 30.0
"""Seconds between looks at the interfaces, as for the addresses that we publish."""
QUIET_INTERVAL = 1.0
"""Seconds between two look-ups of one peer, whatever is announced meanwhile: the first is immediate."""
MAX_PEERS = 4096
"""Peers that are looked for. More than that are not on one LAN."""
CONCURRENT_LOOK_UPS = 16


class MdnsSource:
    """Announces this node and finds its peers, on all LANs or on the interfaces called `interfaces`."""

    name = "mdns"

    def __init__(
        self,
        interfaces: Sequence[str] = (),
        *,
        read: Callable[[], Sequence[Lan]] = read_lans,
        open_responder: OpenResponder | None = None,
    ) -> None:
        self._interfaces = tuple(interfaces)
        self._read = read
        self._open = open_responder
        self.counters: Counter[str] = Counter()
        """Announcements heard by what became of them, addresses that were not believed."""

    async def run(self, context: CandidateContext) -> None:
        """Announce until cancelled, and anew whenever our addresses or ports change."""
        if self._open is None:
            from .responder import open_responder

            self._open = open_responder
        await context.wait_refresh()
        try:
            while True:
                lans = lans_of(self._read(), self._interfaces)
                announcement = announcement_for(context, lans)
                if announcement is None:
                    await self._changed(context, None)
                else:
                    await self._serve(context, announcement, lans, self._open)
        finally:
            log.debug("mdns: %s", dict(self.counters))

    async def _serve(
        self, context: CandidateContext, announcement: Announcement, lans: Sequence[Lan], open_responder: OpenResponder
    ) -> None:
        """Announce one thing until something else is to be announced."""
        finder = _Finder(context, lans, self.counters)
        try:
            async with open_responder(announcement, finder.heard) as responder, anyio.create_task_group() as tasks:
                unsubscribe = context.on_peers(finder.look_at_peers)
                try:
                    finder.start(responder, tasks)
                    await self._changed(context, announcement)
                finally:
                    unsubscribe()
                    tasks.cancel_scope.cancel()
        except OSError as exc:
            log.info("mDNS cannot be used here now: %s", exc)
            self.counters["failed"] += 1
            await self._changed(context, announcement)

    async def _changed(self, context: CandidateContext, announcement: Announcement | None) -> None:
        """Wait until something else should be announced."""
        while True:
            with anyio.move_on_after(POLL_INTERVAL):
                await context.wait_refresh()
            if announcement_for(context, lans_of(self._read(), self._interfaces)) != announcement:
                return


def announcement_for(context: CandidateContext, lans: Sequence[Lan]) -> Announcement | None:
    """What to announce now; None = nothing: no LAN, or no data socket."""
    from .responder import Announcement

    port4, port6 = context.direct.bound_ports()
    addresses = announced(lans, ipv4=bool(port4), ipv6=bool(port6))
    if not addresses:
        return None
    bind: list[str | int] = [str(one.ip) for lan in lans for one in lan.addresses if one.version == 4]
    if port6:
        bind += [lan.index for lan in lans if lan.index and any(one.version == 6 for one in lan.addresses)]
    return Announcement(instance_name(context.key), addresses, port4 or 0, port6 or 0, tuple(bind))


class _Finder:
    """Who of our peers is there: from announcements heard, and by asking for each peer once when it becomes known."""

    def __init__(self, context: CandidateContext, lans: Sequence[Lan], counters: Counter[str]) -> None:
        self._context = context
        self._lans = lans
        self._counters = counters
        self._wanted: dict[str, NodePublic] = {}
        self._names: dict[NodePublic, str] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._limiter = anyio.Semaphore(CONCURRENT_LOOK_UPS)
        self._responder: Responder | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    def start(self, responder: Responder, tasks: anyio.abc.TaskGroup) -> None:
        """Look for everybody we know."""
        self._responder, self._tasks = responder, tasks
        self.look_at_peers()

    def look_at_peers(self) -> None:
        """Peers came or went: look for the new ones."""
        names = self._names
        known = {
            peer.key: names.get(peer.key) or instance_name(peer.key)
            for peer in islice(self._context.peers(), MAX_PEERS)
        }
        new = [name for key, name in known.items() if key not in names]
        self._names, self._wanted = known, {name: key for key, name in known.items()}
        for name in new:
            self._wake(name)

    def heard(self, service: str, is_there: bool) -> None:
        """Somebody was announced, changed, or went. Cheap for strangers: there may be thousands."""
        name = name_of(service)
        key = self._wanted.get(name)
        if key is None:
            self._counters["heard-others"] += 1
        elif is_there:
            self._counters["heard-peers"] += 1
            self._wake(name)
        else:
            self._counters["heard-goodbyes"] += 1
            self._context.suggest(MdnsSource.name, key, ())

    def _wake(self, name: str) -> None:
        if name in self._busy:
            self._again.add(name)
        elif self._tasks is not None:
            self._busy.add(name)
            self._tasks.start_soon(self._attend, name)

    async def _attend(self, name: str) -> None:
        """Look one peer up, then keep quiet about it for a while; once more if something was heard meanwhile."""
        try:
            while True:
                self._again.discard(name)
                async with self._limiter:
                    await self._look_up(name)
                await anyio.sleep(QUIET_INTERVAL)
                if name not in self._again:
                    return
        finally:
            self._busy.discard(name)

    async def _look_up(self, name: str) -> None:
        assert self._responder is not None
        found = await self._responder.look_up(name)
        key = self._wanted.get(name)
        if key is None:
            return
        if found is None:
            self._context.suggest(MdnsSource.name, key, ())
            return
        port4, port6 = self._context.direct.bound_ports()
        endpoints, ignored = believable(found, self._lans, ipv4=bool(port4), ipv6=bool(port6))
        self._counters["addresses-ignored"] += ignored
        self._context.suggest(MdnsSource.name, key, endpoints)

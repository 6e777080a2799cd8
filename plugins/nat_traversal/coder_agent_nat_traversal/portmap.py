"""The port mapping source: has the router open a port to our data socket, and publishes what it opened.

The mapping core decides (coder_agent.protocols.portmap.mapping); this file has the sockets, the clock and the tasks.
Without a private IPv4 gateway nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc

from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import Candidate, CandidateContext, CandidateKind
from coder_agent.protocols.portmap.mapping import LIFETIME, MappingCore
from coder_agent.protocols.portmap.natpmp import ANNOUNCE_GROUP, ANNOUNCE_PORT, GATEWAY_PORT
from coder_agent.protocols.portmap.upnp import UpnpFailed
from coder_agent.protocols.portmap.values import (
    AskUpnp,
    Changed,
    Effect,
    GaveUp,
    Mapping,
    Protocol,
    ReleaseUpnp,
    SearchUpnp,
    SendToGateway,
    Site,
)

from .gateway import Gateway, find_gateway
from .interfaces import POLL_INTERVAL
from .lan_socket import open_group, open_udp, receive, send
from .upnp import UpnpShell

log = logging.getLogger(__name__)

RELEASE_TIME = 1.0
"""Seconds that giving the mapping back may delay the end of the node."""
RELEASE_REPEAT = 0.1
"""Seconds to wait for the answer to a deletion before it is sent once more."""


@dataclass(slots=True)
class PortMapSource:
    """Candidate source (hooks.interfaces.CandidateSource). The fields behind the first are what tests replace."""

    protocols: frozenset[Protocol]
    find: Callable[[], Awaitable[Gateway | None]] = find_gateway
    rng: Callable[[int], bytes] = os.urandom
    lifetime: int = LIFETIME
    poll_interval: float = POLL_INTERVAL
    name: str = "portmap"

    async def run(self, context: CandidateContext) -> None:
        """Keep one mapping and publish its outside address until cancelled; then give it back."""
        driver = _Driver(self, context)
        try:
            await driver.run()
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + RELEASE_TIME):
                await driver.release()


@dataclass(slots=True)
class _Place:
    """The socket and the tasks that belong to one site."""

    site: Site
    sock: socket.socket
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    """Nobody waits at the socket any more: its number may be used again."""


class _Driver:
    """One run of the source."""

    def __init__(self, source: PortMapSource, context: CandidateContext) -> None:
        self._source = source
        self._context = context
        self._core = MappingCore(source.protocols, source.rng, lifetime=source.lifetime)
        self._upnp = UpnpShell(source.rng, self._core.counters)
        self._place: _Place | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._wake = anyio.Event()
        self._published: Mapping | None = None
        self._explained: GaveUp | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._keep_time)
            await self._look()
            while True:
                with anyio.move_on_after(self._source.poll_interval):
                    reason = await self._context.wait_refresh()
                    log.debug("asked for fresh endpoints: %s", reason)
                    self._apply(self._core.check(anyio.current_time()))
                await self._look()

    async def release(self) -> None:
        """Give the mapping back, as far as the gateway answers in time."""
        for effect in self._core.release():
            match effect:
                case SendToGateway() if self._place is not None:
                    await self._send_twice(self._place.sock, effect)
                case ReleaseUpnp():
                    await self._upnp.release(effect)
        if self._place is not None:
            self._place.sock.close()

    # ------------------------------------------------------------ where we are

    async def _look(self) -> None:
        """Has the gateway, our address or the port changed?"""
        port = self._context.direct.bound_ports()[0]
        gateway = await self._source.find() if port is not None else None
        site = Site(gateway.address, gateway.own, port) if gateway is not None and port is not None else None
        if self._place is not None and self._place.site == site:
            return
        if self._place is not None:
            log.debug("port mapping: gateway, own address or port changed: %s", site)
            self._place.scope.cancel()
            await self._place.ended.wait()
            self._place.sock.close()
        self._place = self._enter(site) if site is not None else None
        self._apply(self._core.set_site(site if self._place is not None else None, anyio.current_time()))
        if self._place is None:
            self._context.report_nat(NatFacts(port_mapped=False, gateway_asked=False))

    def _enter(self, site: Site) -> _Place | None:
        try:
            place = _Place(site, open_udp(site.own))
        except OSError as exc:  # our address has just gone; the next look tries again
            log.debug("port mapping: %s", exc)
            return None
        assert self._tasks is not None
        self._tasks.start_soon(self._live, place)
        return place

    async def _live(self, place: _Place) -> None:
        """Listen at one place: to the gateway's answers and to its announcements."""
        try:
            with place.scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, place.sock)
                    tasks.start_soon(self._hear, place.site)
                    if Protocol.UPNP in self._source.protocols:
                        tasks.start_soon(self._upnp.hear, place.site, self._upnp_restarted)
        finally:
            place.ended.set()

    async def _read(self, sock: socket.socket) -> None:
        while True:
            await anyio.wait_readable(sock)
            got = receive(sock)
            if got is not None:
                self._apply(self._core.receive(*got, anyio.current_time()))

    async def _hear(self, site: Site) -> None:
        try:
            sock = open_group(site.own, ANNOUNCE_GROUP, ANNOUNCE_PORT)
        except OSError as exc:
            log.debug("port mapping: cannot hear announcements: %s", exc)
            return
        with sock:
            while True:
                await anyio.wait_readable(sock)
                got = receive(sock)
                if got is not None:
                    self._apply(self._core.announced(*got, anyio.current_time()))

    # ------------------------------------------------------------ time and effects

    async def _keep_time(self) -> None:
        while True:
            deadline = self._core.deadline()
            self._wake = anyio.Event()
            with anyio.CancelScope(deadline=float("inf") if deadline is None else deadline) as scope:
                await self._wake.wait()
            if scope.cancelled_caught:
                self._apply(self._core.on_timer(anyio.current_time()))

    def _apply(self, effects: list[Effect]) -> None:
        assert self._tasks is not None
        for effect in effects:
            match effect:
                case SendToGateway():
                    if self._place is not None:
                        send(self._place.sock, effect.data, effect.gateway, GATEWAY_PORT)
                case SearchUpnp():
                    self._tasks.start_soon(self._search, effect)
                case AskUpnp():
                    self._tasks.start_soon(self._ask, effect)
                case ReleaseUpnp():
                    self._tasks.start_soon(self._upnp.release, effect)
                case Changed():
                    self._publish()
                case GaveUp():
                    self._explain(effect)
        self._wake.set()

    def _publish(self) -> None:
        core, held = self._core, self._core.mapping
        services = frozenset(protocol.value for protocol in core.services)
        asked = core.gateway_asked or bool(services)
        self._context.report_nat(
            NatFacts(port_mapping=services, port_mapped=held is not None, gateway_asked=asked or None)
        )
        before = self._published.external if self._published is not None else None
        if before != (held.external if held is not None else None):
            log.info("port mapping: %s", f"{held.external} by {held.protocol}" if held is not None else "lost")
            offered = [Candidate(held.external, CandidateKind.PORTMAPPED)] if held is not None else []
            self._context.publish(self._source.name, offered)
        self._published = held

    def _explain(self, effect: GaveUp) -> None:
        """Say once why there is no mapping."""
        words = ", ".join(f"{protocol}: {word}" for protocol, word in effect.why)
        level = logging.DEBUG if effect == self._explained else logging.INFO
        log.log(level, "port mapping: none; %s", words or "the gateway does not answer")
        self._explained = effect

    async def _search(self, effect: SearchUpnp) -> None:
        await self._upnp.search(effect.site, lambda: self._upnp_found(effect.site))

    def _upnp_found(self, site: Site) -> None:
        if site == self._core.site:
            self._apply(self._core.upnp_found(anyio.current_time()))

    def _upnp_restarted(self) -> None:
        self._apply(self._core.upnp_restarted(anyio.current_time()))

    async def _ask(self, effect: AskUpnp) -> None:
        try:
            grant = await self._upnp.map(effect)
        except UpnpFailed as failed:
            self._apply(self._core.upnp_failed(effect.site, failed.word, anyio.current_time()))
        else:
            self._apply(self._core.upnp_granted(effect.site, grant, anyio.current_time()))

    async def _send_twice(self, sock: socket.socket, effect: SendToGateway) -> None:
        """Send a deletion, once more if nothing comes back."""
        for _ in range(2):
            send(sock, effect.data, effect.gateway, GATEWAY_PORT)
            with anyio.move_on_after(RELEASE_REPEAT):
                await anyio.wait_readable(sock)
                return

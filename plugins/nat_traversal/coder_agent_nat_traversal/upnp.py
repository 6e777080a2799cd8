"""UPnP with the gateway: searching it, talking to it over HTTP, hearing that it restarted.

Our own client, because the library miniupnpc cannot be confined: it calls whatever address a description names, on any
host, and blocks a thread meanwhile. This one contacts the gateway's address and nobody else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator
from typing import TypeVar

import anyio

from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.portmap import ssdp
from coder_agent.protocols.portmap.igd import Service
from coder_agent.protocols.portmap.upnp import Request, Response, UpnpClient, UpnpFailed
from coder_agent.protocols.portmap.values import AskUpnp, ReleaseUpnp, Site, UpnpGrant

from .lan_http import fetch
from .lan_socket import open_group, open_udp, receive
from .portmap_probe import send_searches

log = logging.getLogger(__name__)
T = TypeVar("T")

SEARCH_TIME = ssdp.WAIT + 1.0
"""Seconds to listen for a first answer: devices may spread theirs over `WAIT`."""
MORE_TIME = 0.05
"""Seconds to listen for further devices after the first. Source: tailscale net/portmapper/portmapper.go."""
MAX_ANSWERS = 11
"""Answers that are kept. Same source."""
MAX_DATAGRAMS = 256
"""Datagrams of a search that are looked at: a flood ends it."""
DESCRIPTION_TIMEOUT = 1.0
"""Seconds. Same source."""
CALL_TIMEOUT = 2.0
"""Seconds for one SOAP call: routers with slow flash take more than one."""
MAP_TIMEOUT = 5.0
"""Seconds for a whole mapping, with all its calls. Same source."""
RELEASE_TIMEOUT = 1.0


class UpnpShell:
    """Carries out what the mapping core asks of UPnP."""

    def __init__(self, rng: Callable[[int], bytes], counters: Counter[str]) -> None:
        self._rng = rng
        self._counters = counters
        self._answers: list[ssdp.Answer] = []
        self._service: Service | None = None
        self._boot = ""

    async def search(self, site: Site, found: Callable[[], None]) -> None:
        """Look for devices on the gateway; `found` is called once there is one."""
        try:
            sock = open_udp(site.own)
        except OSError:  # our address has just gone
            return
        answers: list[ssdp.Answer] = []
        with sock, anyio.move_on_after(SEARCH_TIME) as scope:
            send_searches(sock, site.gateway)
            for _ in range(MAX_DATAGRAMS):
                await anyio.wait_readable(sock)
                got = receive(sock)
                answer = self._answer(site, *got) if got else None
                if answer is not None and len(answers) < MAX_ANSWERS:
                    answers.append(answer)
                    scope.deadline = min(scope.deadline, anyio.current_time() + MORE_TIME)
        if answers:
            self._answers = ssdp.distinct(answers)
            self._boot = answers[-1].boot
            self._service = None
            found()

    async def map(self, ask: AskUpnp) -> UpnpGrant:
        """Map (again). Raises UpnpFailed."""
        client = UpnpClient(ask.site, self._rng)
        with anyio.move_on_after(MAP_TIMEOUT):
            if self._service is not None:
                try:
                    return await self._map(client, [self._service], ask)
                except UpnpFailed as failed:
                    log.debug("UPnP: the known service does not renew: %s", failed)
                    self._service = None
            locations = [answer.location for answer in self._answers]
            services = await self._talk(ask.site, client.services(locations), DESCRIPTION_TIMEOUT)
            return await self._map(client, services, ask)
        raise UpnpFailed("no-answer")

    async def release(self, release: ReleaseUpnp) -> None:
        """Delete a mapping, if the gateway listens."""
        service, self._service = self._service, None
        if service is None:
            return
        client = UpnpClient(release.site, self._rng)
        try:
            with anyio.move_on_after(RELEASE_TIMEOUT):
                await self._talk(release.site, client.delete(service, release.external.port), RELEASE_TIMEOUT)
        except (UpnpFailed, RemoteProtocolError) as exc:
            log.debug("UPnP: mapping %s was not deleted: %s", release.external, exc)

    async def hear(self, site: Site, restarted: Callable[[], None]) -> None:
        """Listen for announcements of the gateway; `restarted` is called when one says that it has restarted."""
        try:
            sock = open_group(site.own, ssdp.GROUP, ssdp.PORT)
        except OSError as exc:
            log.debug("UPnP: cannot hear announcements: %s", exc)
            return
        with sock:
            while True:
                await anyio.wait_readable(sock)
                got = receive(sock)
                if got and got[1].host == site.gateway and self._is_restart(got[0]):
                    restarted()

    # ------------------------------------------------------------ inside

    def _answer(self, site: Site, data: bytes, source: tuple[str, int]) -> ssdp.Answer | None:
        """An answer counts from any port of the gateway, and from nobody else."""
        answer = ssdp.parse_answer(data) if source[0] == site.gateway else Dropped("ssdp-stranger")
        if isinstance(answer, Dropped):
            self._counters[answer.reason] += 1
            return None
        return answer

    def _is_restart(self, data: bytes) -> bool:
        notice = ssdp.parse_notice(data)
        if isinstance(notice, Dropped):
            return False
        if not notice.alive:
            self._boot = "gone"  # and is another one when it comes back
            return False
        before, self._boot = self._boot, notice.boot
        return before != notice.boot and before != ""

    async def _map(self, client: UpnpClient, services: list[Service], ask: AskUpnp) -> UpnpGrant:
        mapped = await self._talk(ask.site, client.map(services, ask.wanted, ask.lifetime), CALL_TIMEOUT)
        self._service = mapped.service
        return mapped.grant

    async def _talk(self, site: Site, conversation: Generator[Request, Response | None, T], timeout: float) -> T:
        """Have a conversation with the gateway; each request gets `timeout` seconds."""
        try:
            request = next(conversation)
            while True:
                request = conversation.send(await fetch(site.gateway, request, timeout))
        except StopIteration as end:
            result: T = end.value
            return result

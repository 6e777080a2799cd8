"""Are the apps of this workspace well? The agent looks, as the manifest asks, and tells the server what has changed.

One good answer makes an app healthy; it takes `threshold` bad looks in a row, and one more, to make it unhealthy
(coder agent/apphealth.go). An answer below 500 is good.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from uuid import UUID

import anyio
import anyio.abc
import h11

from ..errors import CoderAgentError, TransportBroken
from ..hooks.egress import OPEN, Egress
from ..hooks.interfaces import DialOptions
from ..protocols.tailnet.convert import uuid_from_proto
from ..protocols.tailnet.proto import agent_pb2 as pb
from .background import background
from .dial import Endpoint, dial
from .mounts import Mounts
from .rpc import RpcConnection
from .rpc_stream import RpcError

log = logging.getLogger(__name__)

MAX_CHECKS = 128
"""Apps that are looked at; more than a workspace has."""
MIN_INTERVAL, MAX_INTERVAL = 1.0, 3600.0
"""Seconds between two looks, whatever the manifest says."""
MAX_PATIENCE = 30.0
"""Seconds for one answer; it is also no longer than the interval."""
CALL_TIMEOUT = 30.0
READ_SIZE = 16 << 10
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_REPORT = "/coder.agent.v2.Agent/BatchUpdateAppHealths"


class AppHealth(IntEnum):
    """The numbers are those of the wire (agent.proto, AppHealth)."""

    INITIALIZING = 2
    HEALTHY = 3
    UNHEALTHY = 4


@dataclass(frozen=True, slots=True)
class AppCheck:
    """One app that wants to be looked at: every `interval` seconds."""

    id: UUID
    slug: str
    url: str
    interval: float
    threshold: int


def checks_of(apps: Iterable[pb.WorkspaceApp]) -> tuple[AppCheck, ...]:
    """The apps of a manifest that have a health check. Raises RemoteProtocolError."""
    found = []
    for app in apps:
        wish = app.healthcheck
        if wish.url and app.health != pb.WorkspaceApp.DISABLED:
            seconds = wish.interval.seconds + wish.interval.nanos / 1e9
            interval = min(max(seconds, MIN_INTERVAL), MAX_INTERVAL)
            found.append(AppCheck(uuid_from_proto(app.id), app.slug, wish.url, interval, max(wish.threshold, 0)))
    return tuple(found[:MAX_CHECKS])


class HealthBook:
    """What was seen of each app. Pure."""

    def __init__(self) -> None:
        self._health: dict[UUID, AppHealth] = {}
        self._failures: dict[UUID, int] = {}

    def expect(self, checks: Iterable[AppCheck]) -> None:
        """These are the apps now; what is known of them is kept, others are forgotten."""
        wanted = {check.id for check in checks}
        self._health = {one: self._health.get(one, AppHealth.INITIALIZING) for one in wanted}
        self._failures = {one: count for one, count in self._failures.items() if one in wanted}

    def seen(self, check: AppCheck, good: bool) -> bool:
        """One look's result. True: the app's health has changed."""
        if check.id not in self._health:
            return False
        if good:
            self._failures.pop(check.id, None)
            return self._set(check.id, AppHealth.HEALTHY)
        failures = self._failures.get(check.id, 0)
        if failures < check.threshold:
            self._failures[check.id] = failures + 1
            return False
        return self._set(check.id, AppHealth.UNHEALTHY)

    def _set(self, app: UUID, health: AppHealth) -> bool:
        changed = self._health[app] is not health
        self._health[app] = health
        return changed

    def all(self) -> Mapping[UUID, AppHealth]:
        """Every app's health."""
        return dict(self._health)


Look = Callable[[AppCheck], Awaitable[bool]]


class AppHealthReporter:
    """Looks and reports. Lives as long as the agent; `run` as long as one control connection."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._book = HealthBook()

    async def run(self, connection: RpcConnection, checks: tuple[AppCheck, ...]) -> None:
        """Until cancelled. Raises what calls raise; a server without this call is left alone."""
        self._book.expect(checks)
        if not checks:
            await anyio.sleep_forever()
        changed = anyio.Event()
        async with background() as tasks:

            async def watch(check: AppCheck) -> None:
                nonlocal changed
                while True:
                    if self._book.seen(check, await self._look(check)):
                        changed.set()
                    await anyio.sleep(check.interval)

            for check in checks:
                tasks.start_soon(watch, check)
            while True:
                await changed.wait()
                changed = anyio.Event()
                if not await self._tell(connection):
                    break
        await anyio.sleep_forever()

    async def _tell(self, connection: RpcConnection) -> bool:
        update = pb.BatchUpdateAppHealthRequest.HealthUpdate
        updates = [
            update(id=app.bytes, health=pb.AppHealth.ValueType(health)) for app, health in self._book.all().items()
        ]
        request = pb.BatchUpdateAppHealthRequest(updates=updates)
        try:
            await connection.unary(_REPORT, request, pb.BatchUpdateAppHealthResponse, timeout=CALL_TIMEOUT)
        except RpcError as exc:
            if not exc.is_unimplemented:
                raise
            return False
        return True


def looker(egress: Egress = OPEN, mounts: Callable[[int], str | None] | None = None) -> Look:
    """A look over the network: one request, of whose answer only the head is read. Certificates of loopback are not
    verified: they are self-signed as a rule, and nobody can be in between."""
    mounted = Mounts() if mounts is None else mounts

    async def look(check: AppCheck) -> bool:
        try:
            with anyio.fail_after(min(check.interval, MAX_PATIENCE)):
                status = await _status(check.url, egress, mounted)
        except (CoderAgentError, OSError, TimeoutError, anyio.BrokenResourceError, h11.ProtocolError) as exc:
            log.debug("app %s: no answer from %s: %s", check.slug, check.url, exc or type(exc).__name__)
            return False
        if status >= 500:
            log.debug("app %s: %s answers %d", check.slug, check.url, status)
        return status < 500

    return look


async def _status(url: str, egress: Egress, mounted: Callable[[int], str | None]) -> int:
    endpoint = Endpoint.parse(url)
    stream = await _connect(endpoint, egress, mounted)
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", endpoint.host_header), ("User-Agent", "coder-agent"), ("Connection", "close")]
    try:
        await stream.send(http.send(h11.Request(method="GET", target=endpoint.path, headers=headers)) or b"")
        await stream.send(http.send(h11.EndOfMessage()) or b"")
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(await stream.receive(READ_SIZE))
                except anyio.EndOfStream:
                    http.receive_data(b"")
            elif not isinstance(event, h11.InformationalResponse):
                raise anyio.BrokenResourceError
    finally:
        await anyio.aclose_forcefully(stream)


async def _connect(endpoint: Endpoint, egress: Egress, mounted: Callable[[int], str | None]) -> anyio.abc.ByteStream:
    """Raises TransportBroken, OSError."""
    local = endpoint.host in LOOPBACK_HOSTS
    path = mounted(endpoint.port) if local and not endpoint.secure else None
    if path is not None:
        return await anyio.connect_unix(path)
    options = DialOptions(proxy="", insecure=local, egress=egress)
    if endpoint.host == "localhost":  # not by name, which need not be in anybody's DNS
        with suppress(TransportBroken):
            return await dial(replace(endpoint, host="127.0.0.1"), options)
        endpoint = replace(endpoint, host="::1")
    return await dial(endpoint, options)

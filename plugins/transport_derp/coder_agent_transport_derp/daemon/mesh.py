"""Keeps a link to each other relay of the region: dials, watches, dials again."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import h11

from coder_agent.errors import ConfigError, RemoteProtocolError, TransportBroken
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.http import Endpoint, dial
from coder_agent.protocols.derp.mesh import MeshLink, SelfConnected, reconnect_delay
from coder_agent.protocols.derp.server import RelayCore

log = logging.getLogger(__name__)

HEAD_LIMIT = 16 << 10
CONNECT_TIMEOUT = 10.0
"""Seconds for TCP, TLS and the upgrade."""
MAX_WAITING = 4 << 20
"""Bytes that may wait for a slow link before the core queues (and then drops) instead."""


@dataclass(slots=True)
class MeshDialer:
    """One other relay. `run` until cancelled."""

    relay: RelayCore
    mesh_key: bytes
    url: str
    options: DialOptions = field(default_factory=DialOptions)
    is_up: bool = False
    problem: str = ""

    async def run(self) -> None:
        """Link up; whenever the link breaks, again after some five seconds. Ends if the other relay is this one."""
        while True:
            try:
                with anyio.fail_after(CONNECT_TIMEOUT):
                    stream, rest = await self._upgrade()
            except (TimeoutError, TransportBroken, RemoteProtocolError, ConfigError) as exc:
                self._down(str(exc) or "it does not answer")
            else:
                try:
                    await self._serve(stream, rest)
                except SelfConnected:
                    log.info("mesh: %s is this relay itself", self.url)
                    return
                except (RemoteProtocolError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as exc:
                    self._down(str(exc) or "the connection ended")
                finally:
                    await anyio.aclose_forcefully(stream)
            await anyio.sleep(reconnect_delay(os.urandom))

    def _down(self, problem: str) -> None:
        if self.is_up or problem != self.problem:
            log.warning("mesh: no link to %s: %s", self.url, problem)
        self.is_up, self.problem = False, problem

    async def _upgrade(self) -> tuple[anyio.abc.ByteStream, bytes]:
        """Connect and ask for DERP; what was read behind the answer comes along."""
        endpoint = Endpoint.parse(self.url)
        stream = await dial(endpoint, self.options, timeout=CONNECT_TIMEOUT)
        try:
            machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
            headers = [("Host", endpoint.host_header), ("Upgrade", "DERP"), ("Connection", "Upgrade")]
            target = endpoint.path if endpoint.path != "/" else "/derp"
            await stream.send(machine.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
            while True:
                event = machine.next_event()
                if event is h11.NEED_DATA:
                    machine.receive_data(await stream.receive())
                elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    return stream, bytes(machine.trailing_data[0])
                else:
                    status = getattr(event, "status_code", "nonsense")
                    raise RemoteProtocolError(f"it answers {status} to the upgrade: is that a relay?")
        except (h11.RemoteProtocolError, anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError) as exc:
            await anyio.aclose_forcefully(stream)
            raise RemoteProtocolError(f"the upgrade failed: {exc}") from exc
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _serve(self, stream: anyio.abc.ByteStream, rest: bytes) -> None:
        clock = asyncio.get_running_loop().time
        wire = _StreamWire()
        link = MeshLink(self.relay, self.mesh_key, wire, clock())
        wire.on_room = link.flush
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wire.run, stream)
                while True:
                    link.feed(rest, clock())
                    self._note(link)
                    with anyio.fail_after(max(0.0, link.deadline - clock())):
                        rest = await stream.receive(256 << 10)
        except* TimeoutError as group:
            raise RemoteProtocolError("it has said nothing for too long") from group
        except* (RemoteProtocolError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as group:
            raise group.exceptions[0] from None
        finally:
            link.close()

    def _note(self, link: MeshLink) -> None:
        if link.is_up and not self.is_up:
            self.is_up, self.problem = True, ""
            log.info("mesh: linked to %s", self.url)


class _StreamWire:
    """Collects what the link writes; `run` sends it."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._pending = bytearray()
        self._more = anyio.Event()

    @property
    def blocked(self) -> bool:
        return len(self._pending) >= MAX_WAITING

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        self._more.set()

    def close(self) -> None:
        """The dialer closes the stream."""

    async def run(self, stream: anyio.abc.ByteStream) -> None:
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            while self._pending:
                was_blocked = self.blocked
                data, self._pending = self._pending, bytearray()
                await stream.send(bytes(data))
                if was_blocked:
                    self.on_room()

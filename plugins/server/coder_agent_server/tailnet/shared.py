"""`ServerContext.tailnet`: the server's node, which is there while somebody needs it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import anyio

from coder_agent.coordination.interface import Coordinator
from coder_agent.errors import CoderAgentError, PeerUnreachable, TransportBroken
from coder_agent.hooks.server_tailnet import DIAL_TIMEOUT, TunnelPath

from ..derp_map import LiveDerpMap
from .standing import Lookup, Standing

if TYPE_CHECKING:  # an idle server shall not hold a TCP stack and WireGuard in memory
    from coder_agent.node import NodeConfig

    from .connection import Connection
    from .member import Member
    from .open_tailnet import OpenTailnet

logger = logging.getLogger("coder_agent.server")

IDLE = 300.0
"""Seconds without a connection after which an agent leaves (coderd waits for 30 min, coderd/tailnet.go). A tunnel costs
a round trip to open, and a keepalive every 25 s to hold."""
SWEEP = 30.0
"""Seconds between looks at that."""


class Attendance(Protocol):
    """Which agents are connected to this server (presence.py)."""

    def last_seen(self, agent_id: UUID) -> datetime | None:
        """None when it is not connected."""
        ...


@dataclass
class SharedTailnet:
    """A `coder_agent.hooks.server_tailnet.ServerTailnet`. `run` it in a task; nothing is opened before the first dial.

    `configure` makes the node's configuration, with transports, path rules and the local relay, but no addresses.
    """

    configure: Callable[[], NodeConfig]
    coordinator: Coordinator
    derp_map: LiveDerpMap
    attendance: Attendance
    lookup: Lookup
    clock: Callable[[], datetime]
    idle: float = IDLE
    sweep: float = SWEEP
    counters: Counter[str] = field(default_factory=Counter)
    _open: OpenTailnet | None = None
    _wanted: anyio.Event = field(default_factory=anyio.Event)
    _settled: anyio.Event = field(default_factory=anyio.Event)
    _failure: CoderAgentError | None = None

    # ------------------------------------------------------------ ServerTailnet

    async def dial(self, agent_id: UUID, port: int, *, timeout: float = DIAL_TIMEOUT) -> Connection:
        """Connect to a TCP port of a workspace."""
        began = anyio.current_time()
        try:
            with anyio.fail_after(timeout):
                tailnet, member = await self._reach(agent_id)
        except TimeoutError:
            standing = await self._standing(agent_id)
            raise PeerUnreachable(
                f"workspace {standing.label}: its agent is connected to the server but did not answer within "
                f"{timeout:g} s",
                hint="see what `coder ping` says about the path to it",
            ) from None
        return await tailnet.dial(member, port, timeout - (anyio.current_time() - began))

    def path(self, agent_id: UUID) -> TunnelPath | None:
        """What carries packets to this agent now."""
        return self._open.path(agent_id) if self._open is not None else None

    def metrics(self) -> Mapping[str, int]:
        """open_connections, agents, connections_total, dial_failures."""
        tailnet = self._open
        return {
            "open_connections": tailnet.open_connections if tailnet is not None else 0,
            "agents": len(tailnet.members) if tailnet is not None else 0,
            "connections_total": self.counters["connections_total"],
            "dial_failures": self.counters["dial_failures"],
        }

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Open the node when it is wanted, close it when nobody needs it any more, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            try:
                await self._live()
            except CoderAgentError as exc:
                logger.warning("tailnet of this server: %s", exc.message)
                self._failure = exc
            except Exception:  # a bug there must not take the server with it; the next dial tries again
                logger.exception("tailnet of this server failed")
                self._failure = TransportBroken("the server's own tailnet node failed", hint="its log says why")
            self._open = None
            self._settled.set()

    async def _live(self) -> None:
        from .open_tailnet import open_tailnet

        config = self.configure()
        async with open_tailnet(config, self.coordinator, self.derp_map, self.lookup, self.counters) as tailnet:
            logger.info("tailnet of this server: open")
            self._open, self._failure = tailnet, None
            self._settled.set()
            try:
                while True:
                    await anyio.sleep(self.sweep)
                    tailnet.remove_idle(self.idle)
                    if not tailnet.members:
                        break
            finally:
                self._open = None  # nobody shall find it while it closes
        logger.info("tailnet of this server: closed, for nobody uses it")

    # ------------------------------------------------------------ inside

    async def _reach(self, agent_id: UUID) -> tuple[OpenTailnet, Member]:
        """The node, and the agent in it. Raises PeerUnreachable at once if the agent is not there."""
        tailnet = self._open
        member = tailnet.members.get(agent_id) if tailnet is not None else None
        if self.attendance.last_seen(agent_id) is None:
            if member is None or member.away:
                raise await self._unreachable(agent_id)
            await member.certain.wait()  # without a control connection, but perhaps still there
            if member.away:
                raise await self._unreachable(agent_id)
        if tailnet is not None and member is not None:
            return tailnet, member
        standing = await self._standing(agent_id)
        tailnet = await self._opened()
        return tailnet, tailnet.add(agent_id, standing)

    async def _opened(self) -> OpenTailnet:
        if self._open is None:
            if self._settled.is_set():
                self._settled = anyio.Event()
            self._wanted.set()
            await self._settled.wait()
        if self._open is None:
            raise self._failure or TransportBroken("the server's own tailnet node could not be opened")
        return self._open

    async def _standing(self, agent_id: UUID) -> Standing:
        standing = await self.lookup(agent_id)
        if standing is None:
            raise PeerUnreachable("there is no such workspace agent")
        return standing

    async def _unreachable(self, agent_id: UUID) -> PeerUnreachable:
        return (await self._standing(agent_id)).unreachable(self.clock())

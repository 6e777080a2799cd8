"""The server's node while it runs: its agents, how they come and go, and dials to them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import anyio
import anyio.abc

from coder_agent.base.addresses import CODER_PREFIX, node_id, overlay_address
from coder_agent.base.coordinate import PeerUpdate, UpdateKind
from coder_agent.base.paths import PathKind
from coder_agent.coordination.interface import Coordinator
from coder_agent.errors import CoderAgentError, PeerUnreachable, TransportBroken
from coder_agent.explain import explain
from coder_agent.hooks.server_tailnet import TunnelPath
from coder_agent.node import NodeConfig, TailnetNode, open_node
from coder_agent.peers import READY_FALLBACK, PeerBook

from ..derp_map import LiveDerpMap
from .connection import Connection
from .member import Member, refused
from .membership import Membership
from .standing import Lookup, Standing

logger = logging.getLogger("coder_agent.server")

MAX_AGENTS = 4000
"""Agents at one time, below what a coordinator allows one peer (4096 tunnels). The idlest makes room."""
PROBES = (0.5, 1.0, 2.0)
"""Seconds for each of three pings to an agent that the coordinator lost: packets may still flow to it."""
REPROBE = 5.0
"""Seconds between such looks, while it is lost but answers."""


class OpenTailnet:
    """Made by `open_tailnet`. `counters`: connections_total, dial_failures."""

    def __init__(
        self,
        node: TailnetNode,
        tasks: anyio.abc.TaskGroup,
        coordinator: Coordinator,
        peer: UUID,
        lookup: Lookup,
        counters: Counter[str],
    ) -> None:
        self.members: dict[UUID, Member] = {}
        self._node = node
        self._tasks = tasks
        self._counters = counters
        self._lookup = lookup
        self._book = PeerBook(node)
        self._seat = Membership(coordinator, peer, self._heard)
        node.on_self_changed = self._seat.publish
        self._seat.publish(node.self_node())

    @property
    def open_connections(self) -> int:
        """Of all agents."""
        return sum(member.open for member in self.members.values())

    # ------------------------------------------------------------ agents

    def add(self, agent_id: UUID, standing: Standing) -> Member:
        """An agent that is wanted; if it is a member already, `standing` is taken over."""
        member = self.members.get(agent_id)
        if member is None:
            self._make_room()
            member = self.members[agent_id] = Member(agent_id, standing, time.monotonic())
            self._seat.add(agent_id)
        member.standing = standing
        return member

    def remove(self, member: Member) -> None:
        """Forget an agent, and have it forget us."""
        del self.members[member.agent_id]
        if member.probing is not None:
            member.probing.cancel()
        member.break_all("the connection to it was given up")
        self._seat.remove(member.agent_id)
        self._book.update(member.agent_id, UpdateKind.DISCONNECTED, None, "not used any more")

    def remove_idle(self, idle: float) -> None:
        """Forget agents without a connection for `idle` seconds."""
        now = time.monotonic()
        for member in list(self.members.values()):
            if member.open:
                member.used_at = now
            elif now - member.used_at >= idle:
                logger.debug("tailnet of this server: %s has been idle", member.label)
                self.remove(member)

    def close(self) -> None:
        """Tell everybody that we leave."""
        for member in self.members.values():
            member.break_all("the server is shutting down")
        self._seat.leave()

    # ------------------------------------------------------------ dialling

    async def dial(self, member: Member, port: int, timeout: float) -> Connection:
        """Connect, within `timeout` seconds. Raises PeerUnreachable, TransportBroken."""
        member.used_at = time.monotonic()
        with anyio.CancelScope() as scope:
            member.dials.add(scope)
            try:
                connection = await self._dial(member, port, timeout)
            except CoderAgentError:
                self._counters["dial_failures"] += 1
                raise
            finally:
                member.dials.discard(scope)
            self._counters["connections_total"] += 1
            return connection
        self._counters["dial_failures"] += 1
        raise PeerUnreachable(f"workspace {member.label}: its agent left while it was being dialled")

    async def _dial(self, member: Member, port: int, timeout: float) -> Connection:
        began = anyio.current_time()
        try:
            with anyio.fail_after(timeout):
                await member.ready.wait()
                await member.take_place()
        except TimeoutError:
            raise self._silent(member, port, timeout) from None
        try:
            left = max(timeout - (anyio.current_time() - began), 0.01)
            stream = await self._node.dial_tcp(member.address, port, timeout=left)
        except BaseException as exc:
            member.give_place()
            if isinstance(exc, PeerUnreachable):
                raise self._silent(member, port, timeout) from exc
            if isinstance(exc, TransportBroken):
                raise refused(member, port, exc) from exc
            raise
        return member.start(stream)

    def _silent(self, member: Member, port: int, timeout: float) -> PeerUnreachable:
        if member.full:
            what = f"no connection became free within {timeout:.3g} s"
        elif member.ready.is_set():
            what = f"no answer from port {port} within {timeout:.3g} s"
        else:
            what = f"its agent is connected to the server but did not answer within {timeout:.3g} s"
        hint = "see what `coder ping` says about the path to it"
        return PeerUnreachable(f"workspace {member.label}: {what}", hint=hint)

    def path(self, agent_id: UUID) -> TunnelPath | None:
        """What carries packets to this agent; None = it is no member, or not there yet."""
        peer = self._book.get(agent_id) if agent_id in self.members else None
        if peer is None:
            return None
        status = self._node.path(peer.key)
        region = self._node.derp_map.regions.get(status.region)
        reason = explain(self._node, peer.key).summary if status.kind is PathKind.RELAYED else ""
        name = region.region_name or region.region_code if region is not None else ""
        return TunnelPath(
            status.kind, status.addr, status.region, name, status.latency, status.tunnel_mtu, reason, status.loss
        )

    # ------------------------------------------------------------ what the coordinator says

    def _heard(self, update: PeerUpdate) -> None:
        member = self.members.get(update.id)
        if member is None:
            return
        if update.kind is UpdateKind.NODE and update.node is not None:
            self._came(member, update)
        elif update.kind is UpdateKind.READY_FOR_HANDSHAKE:
            self._book.update(update.id, update.kind, None, update.reason)
            if self._book.get(update.id) is not None:
                member.ready.set()
        elif update.kind is UpdateKind.DISCONNECTED:
            member.leave("its agent left")  # first: who reads or writes hears it in our words
            self._book.update(update.id, update.kind, None, update.reason)
        elif update.kind is UpdateKind.LOST:
            self._book.update(update.id, update.kind, None, update.reason)
            self._doubt(member)

    def _came(self, member: Member, update: PeerUpdate) -> None:
        """An agent's node: first, changed, or that of another incarnation of it."""
        node = update.node
        assert node is not None
        if node.preferred_derp == 0:  # it is still looking for its relay
            return
        known = self._book.get(member.agent_id)
        if known is not None and known.key != node.key:
            member.leave("its agent was restarted")
            known = None
        if member.probing is not None:
            member.probing.cancel()
        if member.stale:
            member.stale = False
            self._tasks.start_soon(self._look_again, member)
        rules = member.standing.rules
        allowed = tuple(filter(rules.permits, node.endpoints))
        self._book.update(member.agent_id, UpdateKind.NODE, replace(node, endpoints=allowed), update.reason)
        self._node.set_rules(rules, node.key)
        member.away = False
        member.certain.set()
        if known is None:
            if self._book.is_ready(member.agent_id):
                member.ready.set()
            else:
                self._tasks.start_soon(self._ready_by_time, member, member.ready)

    async def _ready_by_time(self, member: Member, ready: anyio.Event) -> None:
        """Not every agent says READY_FOR_HANDSHAKE."""
        with anyio.move_on_after(READY_FALLBACK):
            await ready.wait()
        ready.set()

    async def _look_again(self, member: Member) -> None:
        """An agent whose path rules changed is made to connect anew: then they hold here, too."""
        standing = await self._lookup(member.agent_id)
        known = self._book.get(member.agent_id)
        if standing is not None:
            member.standing = standing
            if known is not None:
                self._node.set_rules(standing.rules, known.key)

    def _doubt(self, member: Member) -> None:
        """The agent's control connection is gone. That alone ends nothing: packets may still flow."""
        member.stale = True
        if member.probing is None and not member.away:
            member.certain = anyio.Event()
            member.probing = anyio.CancelScope()
            self._tasks.start_soon(self._probe, member, member.probing)

    async def _probe(self, member: Member, scope: anyio.CancelScope) -> None:
        """Ping until it does not answer, or its node comes again."""
        try:
            with scope:
                while await self._answers(member):
                    member.certain.set()
                    await anyio.sleep(REPROBE)
                member.leave("its agent is gone")
                if self._book.get(member.agent_id) is not None:
                    self._book.update(member.agent_id, UpdateKind.DISCONNECTED, None, "does not answer")
        finally:
            member.probing = None

    async def _answers(self, member: Member) -> bool:
        for patience in PROBES:
            try:
                await self._node.ping_tunnel(member.address, timeout=patience)
                return True
            except PeerUnreachable:
                continue
        return False

    def _make_room(self) -> None:
        if len(self.members) < MAX_AGENTS:
            return
        idle = [member for member in self.members.values() if not member.open]
        if not idle:
            raise PeerUnreachable(f"this server is connected to {MAX_AGENTS} workspaces and cannot reach another one")
        self.remove(min(idle, key=lambda member: member.used_at))


@asynccontextmanager
async def open_tailnet(
    config: NodeConfig, coordinator: Coordinator, derp_map: LiveDerpMap, lookup: Lookup, counters: Counter[str]
) -> AsyncIterator[OpenTailnet]:
    """Run the node. Fresh keys and a random address, as every client has them. Raises ConfigError, TransportError."""
    peer = uuid4()
    config = replace(config, addresses=[overlay_address(CODER_PREFIX, peer)], id=node_id(peer))
    async with open_node(config) as node, anyio.create_task_group() as tasks:
        node.set_derp_map(derp_map.current)
        tailnet = OpenTailnet(node, tasks, coordinator, peer, lookup, counters)
        tasks.start_soon(_follow, derp_map, node)
        try:
            yield tailnet
        finally:
            tailnet.close()
            tasks.cancel_scope.cancel()


async def _follow(derp_map: LiveDerpMap, node: TailnetNode) -> None:
    async for current in derp_map.follow():
        node.set_derp_map(current)

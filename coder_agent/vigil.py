"""A user's program was killed: what it had started in the workspace must end, soon.

Nobody says goodbye for it. But its system closes its connection to the coordinator, which tells us with a reason of
its own; and the tunnel no longer answers. One of the two alone proves nothing: a program that lost only its coordinator
has a tunnel that works, and a machine that sleeps closes nothing. Both together, for `GRACE`, end its connections here.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import anyio

from .base.node import Node
from .errors import PeerUnreachable
from .node import TailnetNode

INTERVAL = 4.0
"""Seconds between two pings, and the time each has."""
PINGS = 5
GRACE = INTERVAL * PINGS
"""Seconds of silence: a program that changes its network closes its connection, too, and is back in less."""


class Peers(Protocol):
    """What is needed of a `coder_agent.peers.PeerBook`."""

    def get(self, peer: UUID) -> Node | None: ...
    def is_lost(self, peer: UUID) -> bool: ...
    def give_up(self, peer: UUID, reason: str) -> None: ...


class Vigil:
    """Pings the peers whose connection to the coordinator was closed, until they are back or given up."""

    def __init__(self, node: TailnetNode, peers: Peers) -> None:
        self._node = node
        self._peers = peers
        self._watched: set[UUID] = set()

    def begin(self, peer: UUID) -> None:
        """The coordinator said that the connection of `peer` was closed without a goodbye."""
        if peer not in self._watched and self._peers.is_lost(peer):
            self._watched.add(peer)
            self._node.start_soon(self._watch, peer)

    async def _watch(self, peer: UUID) -> None:
        try:
            missed = 0
            while missed < PINGS:
                if await self._answers(peer):
                    missed = 0
                    await anyio.sleep(GRACE)  # it may still be killed before its coordinator has it again
                else:
                    missed += 1
                if not self._peers.is_lost(peer):
                    return
            self._peers.give_up(peer, "its program has ended")
        finally:
            self._watched.discard(peer)

    async def _answers(self, peer: UUID) -> bool:
        known = self._peers.get(peer)
        if known is None or not known.addresses:
            await anyio.sleep(INTERVAL)
            return False
        try:
            await self._node.ping_tunnel(known.addresses[0].network_address, timeout=INTERVAL)
        except PeerUnreachable:
            return False
        return True

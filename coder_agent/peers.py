"""Peers as a coder server tells of them: coordinator updates → peers of a node (coder tailnet/configmaps.go).

The server going away never costs a conversation: its peers become *lost*, keep their sessions, and are forgotten only
15 minutes after their last WireGuard handshake.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from uuid import UUID

import anyio

from .base.coordinate import UpdateKind
from .base.node import Node
from .node import TailnetNode

log = logging.getLogger(__name__)

LOST_TIMEOUT = 15 * 60.0
"""Seconds after the last WireGuard handshake until a lost peer is forgotten (tailnet/configmaps.go)."""
SWEEP_INTERVAL = 30.0
READY_FALLBACK = 5.0
"""Seconds after a destination's node arrived until the handshake is made without its READY (tailnet/configmaps.go)."""
KEEPALIVE = 25.0
"""Seconds; WireGuard persistent keepalive of a peer that was active once: keeps its NAT mapping (wireguard.com)."""


class PeerBook:
    """Maps the coordinator's peer ids to a node's peers.

    `acknowledge` (agents) is called with each peer whose node we installed: its handshake may come now.
    `changed` is called after every update.
    """

    def __init__(
        self,
        node: TailnetNode,
        *,
        acknowledge: Callable[[UUID], None] | None = None,
        changed: Callable[[UUID], None] = lambda peer: None,
    ) -> None:
        self._node = node
        self._acknowledge = acknowledge
        self._changed = changed
        self._known: dict[UUID, Node] = {}
        self._lost: set[UUID] = set()
        self._ready: set[UUID] = set()
        node.on_session_ready = lambda key: node.engine.device.set_keepalive(key, KEEPALIVE)

    @property
    def known(self) -> Mapping[UUID, Node]:
        """All peers with their nodes, the newest last."""
        return self._known

    def get(self, peer: UUID) -> Node | None:
        """The node of a peer, if we have it."""
        return self._known.get(peer)

    def is_lost(self, peer: UUID) -> bool:
        """The coordinator lost it, or we lost the coordinator."""
        return peer in self._lost

    def is_ready(self, peer: UUID) -> bool:
        """The peer said that it knows our key."""
        return peer in self._ready

    def update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        """One update from the coordinator."""
        if kind is UpdateKind.NODE:
            self._upsert(peer, node)
        elif kind is UpdateKind.DISCONNECTED:
            self._forget(peer, reason)
        elif kind is UpdateKind.LOST:
            if peer in self._known:
                self._lost.add(peer)
        elif kind is UpdateKind.READY_FOR_HANDSHAKE:  # may come before the node: remembered
            self._ready.add(peer)
            if (known := self._known.get(peer)) is not None:
                self._node.handshake(known.key)
        self._changed(peer)

    def all_lost(self) -> None:
        """The coordinator is gone. Data keeps flowing."""
        self._lost.update(self._known)
        for peer in self._known:
            self._changed(peer)

    def give_up(self, peer: UUID, reason: str) -> None:
        """A lost peer will not come back: forget it now, and reset its connections."""
        if peer in self._lost:
            self._forget(peer, reason)
            self._changed(peer)

    async def sweep(self) -> None:
        """Forget lost peers whose sessions died long ago. Runs until cancelled."""
        while True:
            await anyio.sleep(SWEEP_INTERVAL)
            self.forget_stale()

    def forget_stale(self) -> None:
        """Forget lost peers whose last handshake is older than LOST_TIMEOUT."""
        for peer in list(self._lost):
            known = self._known.get(peer)
            age = None if known is None else self._node.last_handshake(known.key)
            if age is None or age > LOST_TIMEOUT:
                self._forget(peer, "lost for too long")

    def _upsert(self, peer: UUID, node: Node | None) -> None:
        if node is None or node.preferred_derp == 0:  # cannot be reached yet; a newer one will come
            log.debug("peer %s has no home relay yet: ignored", peer)
            return
        old = self._known.get(peer)
        if old is not None and old.key != node.key:  # it restarted
            self._node.remove_peer(old.key)
            self._ready.discard(peer)
        self._known[peer] = node
        self._lost.discard(peer)
        self._node.upsert_peer(node)
        if self._acknowledge is not None:
            self._acknowledge(peer)
        elif peer in self._ready and old is None:
            self._node.handshake(node.key)

    def _forget(self, peer: UUID, reason: str) -> None:
        known = self._known.pop(peer, None)
        self._lost.discard(peer)
        self._ready.discard(peer)
        if known is not None:
            log.debug("peer %s removed: %s", peer, reason)
            # Keys live as long as a program: nobody will come back to its connections. Its own goodbye may be lost, for
            # the coordinator's word is often here first, and without the keys nothing more can be read.
            self._node.remove_peer(known.key, gone=f"the other side is gone ({reason})")

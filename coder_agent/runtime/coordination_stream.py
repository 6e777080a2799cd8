"""What we want the coordinator to know, and one Coordinate stream that tells it.

`Wishes` outlives connections; `CoordinationStream` is made anew for each and says everything again.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from uuid import UUID

import anyio

from ..base.coordinate import PeerRequest, PeerUpdate, UpdateKind
from ..base.node import Node
from ..errors import CoordinationError, TransportBroken
from ..protocols.tailnet.convert import request_to_proto, response_from_proto
from ..protocols.tailnet.proto import tailnet_pb2 as pb
from .rpc_stream import RpcStream

log = logging.getLogger(__name__)

UPDATE_INTERVAL = 0.05
"""Seconds between two of our node updates at least: endpoints are found in bursts, and each update goes to every
peer."""
HARMLESS_ERROR = "ready for handshake error"
"""How the one error starts that does not end the stream (tailnet/coordinator.go)."""


class Wishes:
    """Our node, the tunnels we want, and handshakes to acknowledge. Every change sets `changed`."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.tunnels: dict[UUID, None] = {}
        self.ready: dict[UUID, None] = {}
        self.disconnect = False
        self.changed = anyio.Event()

    def set_node(self, node: Node) -> None:
        """Publish `node`. One without a home relay is kept back: nobody could reach it."""
        if node.preferred_derp:
            self.node = node
            self.changed.set()

    def set_tunnel(self, peer: UUID, wanted: bool) -> None:
        """Want, or no longer want, a tunnel."""
        if wanted:
            self.tunnels[peer] = None
        else:
            self.tunnels.pop(peer, None)
        self.changed.set()

    def acknowledge(self, peer: UUID) -> None:
        """Tell `peer` that we have its node and answer its handshake."""
        self.ready[peer] = None
        self.changed.set()

    def leave(self) -> None:
        """Say goodbye."""
        self.disconnect = True
        self.changed.set()


class CoordinationStream:
    """One Coordinate call of ours."""

    def __init__(self, stream: RpcStream[pb.CoordinateResponse], wishes: Wishes) -> None:
        self._stream = stream
        self._wishes = wishes
        self._told_node: Node | None = None
        self._told_tunnels: set[UUID] = set()
        self._last_update = -UPDATE_INTERVAL
        wishes.ready.clear()  # peers whose nodes are told again are acknowledged again

    async def updates(self) -> list[PeerUpdate] | None:
        """The next updates; None after a goodbye. Raises CoordinationError (refused), TransportError."""
        try:
            message = await self._stream.receive()
        except anyio.EndOfStream:
            if self._wishes.disconnect:
                return None
            raise TransportBroken("the server ended the coordination") from None
        response = response_from_proto(message)
        if response.error.startswith(HARMLESS_ERROR):
            log.debug("coordinator: %s", response.error)
        elif response.error:
            raise CoordinationError(f"the server refused: {response.error}")
        return [update for update in response.updates if _usable(update)]

    async def tell(self) -> None:
        """Tell the coordinator every change; returns after the goodbye is said. Raises TransportError."""
        wishes = self._wishes
        while True:
            wishes.changed = anyio.Event()
            for request in self._requests():
                await self._stream.send(request_to_proto(request))
            if wishes.disconnect:
                await self._stream.send(request_to_proto(PeerRequest(disconnect=True)))
                return
            if not await self._node_update_sent():
                await wishes.changed.wait()

    def _requests(self) -> list[PeerRequest]:
        wanted = self._wishes.tunnels
        requests = [PeerRequest(add_tunnel=peer) for peer in wanted if peer not in self._told_tunnels]
        requests += [PeerRequest(remove_tunnel=peer) for peer in self._told_tunnels if peer not in wanted]
        self._told_tunnels = set(wanted)
        if self._wishes.ready:
            requests.append(PeerRequest(ready_for_handshake=tuple(self._wishes.ready)))
            self._wishes.ready.clear()
        return requests

    async def _node_update_sent(self) -> bool:
        """Send our node if it changed and the last update is long enough ago. True: look again at once."""
        if self._wishes.node is None or _same(self._wishes.node, self._told_node):
            return False
        wait = self._last_update + UPDATE_INTERVAL - anyio.current_time()
        if wait > 0:
            with anyio.move_on_after(wait):
                await self._wishes.changed.wait()
            return True
        self._last_update = anyio.current_time()
        self._told_node = self._wishes.node
        await self._stream.send(request_to_proto(PeerRequest(update_self=self._told_node)))
        return True


def _same(one: Node, other: Node | None) -> bool:
    return other is not None and replace(one, as_of=0.0) == replace(other, as_of=0.0)


def _usable(update: PeerUpdate) -> bool:
    if update.kind is UpdateKind.NODE and update.node is not None and not update.node.preferred_derp:
        log.warning("peer %s has no home relay yet: its node is ignored", update.id)
        return False
    return True

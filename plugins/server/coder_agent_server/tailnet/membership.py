"""The server's seat at its own coordinator: what a client says over the network, said in the process.

The coordinator may call from within another peer's request; everything here therefore happens in a later turn of the
loop, in which many changes are told at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID

from coder_agent.base.coordinate import PeerRequest, PeerUpdate
from coder_agent.base.node import Node
from coder_agent.coordination.interface import Coordinator, CoordinatorSession
from coder_agent.coordination.roles import SingleTailnetAuth
from coder_agent.errors import CoordinationError

logger = logging.getLogger("coder_agent.server")

NAME = "this server"
"""How debugging pages call the peer."""


class Membership:
    """One peer of the coordinator. `heard` is called with every update; without a home relay our node is kept back."""

    def __init__(self, coordinator: Coordinator, peer: UUID, heard: Callable[[PeerUpdate], None]) -> None:
        self._coordinator = coordinator
        self._peer = peer
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._node: Node | None = None
        self._tunnels: set[UUID] = set()
        self._woken = self._published = self._left = False
        self._session: CoordinatorSession | None = None
        self._connect()

    def publish(self, node: Node) -> None:
        """Our node, now and whenever it changes."""
        self._node = node
        self._published = False
        self._wake()

    def add(self, agent: UUID) -> None:
        """Ask for a tunnel: the agent and we learn of each other."""
        self._tunnels.add(agent)
        if self._session is not None:
            self._session.request(PeerRequest(add_tunnel=agent))

    def remove(self, agent: UUID) -> None:
        """Give a tunnel up: the agent forgets us."""
        self._tunnels.discard(agent)
        if self._session is not None:
            self._session.request(PeerRequest(remove_tunnel=agent))

    def leave(self) -> None:
        """Say goodbye: every agent forgets us at once."""
        self._left = True
        if self._session is not None:
            self._session.request(PeerRequest(disconnect=True))
            self._session.close()
            self._session = None

    # ------------------------------------------------------------ inside

    def _connect(self) -> None:
        try:
            self._session = self._coordinator.connect(self._peer, SingleTailnetAuth(), name=NAME, wake=self._wake)
        except CoordinationError as exc:  # the server is shutting down
            logger.debug("no seat at the coordinator: %s", exc.message)
            self._session = None
            return
        self._published = False
        for agent in self._tunnels:
            self._session.request(PeerRequest(add_tunnel=agent))

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._woken = False
        if self._session is None:
            return
        self._tell()
        for response in self._session.take():
            if response.error:
                logger.info("tailnet of this server: the coordinator says: %s", response.error)
            for update in response.updates:
                self._heard(update)
        if self._session is not None and self._session.ended and not self._left:
            self._connect()
            self._wake()

    def _tell(self) -> None:
        if self._session is None or self._published or self._node is None or self._node.preferred_derp == 0:
            return
        self._published = True
        self._session.request(PeerRequest(update_self=self._node))

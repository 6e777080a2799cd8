"""What a coordinator is: the seam at which another store may stand in for the one in memory.

Calls are synchronous and quick; a store that must ask a database does so in tasks of its own and wakes the sessions
when answers are there. testing/contracts/coordinator.py holds the cases that every coordinator must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ..base.coordinate import PeerRequest, PeerResponse, PeerUpdate, UpdateKind
from ..base.node import Node

__all__ = [
    "Coordinator",
    "CoordinatorSession",
    "PeerRequest",
    "PeerResponse",
    "PeerState",
    "PeerUpdate",
    "Role",
    "UpdateKind",
]


class Role(Protocol):
    """What a connected peer may ask for (roles.py)."""

    def check(self, request: PeerRequest) -> None:
        """Raises Forbidden, with a reason that the peer may read."""
        ...


class CoordinatorSession(Protocol):
    """One peer's Coordinate stream."""

    peer: UUID

    def request(self, request: PeerRequest) -> None:
        """Carry out one request. A forbidden one ends the session, with the reason as its last response."""
        ...

    def reject(self, reason: str) -> None:
        """End the session because of a request that could not even be read."""
        ...

    def take(self) -> list[PeerResponse]:
        """The responses that wait, in order; they are handed out once."""
        ...

    @property
    def ended(self) -> bool:
        """No more responses will come: after the last `take` the server ends the stream."""
        ...

    def close(self, reason: str = "lost") -> None:
        """The stream is over. Without a `disconnect` before, the others hear LOST, with `reason`. Harmless when
        repeated."""
        ...


@dataclass(frozen=True, slots=True)
class PeerState:
    """One connected peer, for debugging pages."""

    id: UUID
    name: str
    node: Node | None
    overwrites: int
    tunnels: tuple[UUID, ...]


class Coordinator(Protocol):
    """Connects peers with those they have tunnels to."""

    def connect(self, peer: UUID, role: Role, *, name: str, wake: Callable[[], None]) -> CoordinatorSession:
        """Begin a session. `wake` is called (never from within a call of that session's owner to `take`) when there is
        something to take or the session has ended. An older session of the same peer is ended.
        """
        ...

    def remove(self, peer: UUID, reason: str) -> None:
        """End a peer's session from the server's side (its workspace was deleted): the others hear DISCONNECTED."""
        ...

    def node(self, peer: UUID) -> Node | None:
        """The node that a connected peer last published."""
        ...

    def peers(self) -> Sequence[PeerState]:
        """Everybody who is connected."""
        ...

    def close(self) -> None:
        """The server stops: every session ends, and everybody hears LOST about everybody."""
        ...

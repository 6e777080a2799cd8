"""What peers and the coordinator say to each other: the values behind CoordinateRequest and CoordinateResponse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from .node import Node

CONNECTION_ENDED = "lost: its connection was closed"
"""Reason of a LOST when the peer's connection to the coordinator was closed without a goodbye, as a killed program's is
by its system. A stock coordinator says "lost" whether that happened or the peer fell silent, as one asleep does."""


class UpdateKind(IntEnum):
    """What happened to a peer. The numbers are those of the wire (tailnet.proto, PeerUpdate.Kind)."""

    NODE = 1
    """Here is its node: add or update it."""
    DISCONNECTED = 2
    """It left on purpose, or the tunnel to it was removed: drop it now."""
    LOST = 3
    """The coordinator lost sight of it: keep it while packets still flow."""
    READY_FOR_HANDSHAKE = 4
    """It has our node: a WireGuard initiation sent now will be answered."""


@dataclass(frozen=True, slots=True)
class PeerUpdate:
    """One change, told to a peer. `node` is set for NODE only."""

    id: UUID
    kind: UpdateKind
    node: Node | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """One request of a peer; handled in the order of the fields, whichever are set."""

    update_self: Node | None = None
    add_tunnel: UUID | None = None
    remove_tunnel: UUID | None = None
    disconnect: bool = False
    ready_for_handshake: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerResponse:
    """One answer to a peer: updates, or an error. Not every error ends the stream."""

    updates: tuple[PeerUpdate, ...] = ()
    error: str = ""

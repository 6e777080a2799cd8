"""What waits to be sent to one peer: bounded, in order, and without what is out of date already."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from ..base.coordinate import PeerResponse, PeerUpdate, UpdateKind
from ..base.node import Node

CAPACITY = 512
"""Updates that may wait for one peer (ResponseBufferSize of tailnet/coordinator.go). A peer that falls further behind
is disconnected."""
_BATCH = 64  # updates per response: far below the 4 MiB of one message, however many endpoints the nodes have


class Mailbox:
    """Responses for one peer. A node that is still waiting is replaced by its successor; one that the peer has got
    already is not sent again."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: list[PeerUpdate | str] = []
        self._replaceable: dict[UUID, int] = {}
        self._told: dict[UUID, Node] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, update: PeerUpdate) -> bool:
        """Add an update. False: full, nothing was added."""
        if update.kind is UpdateKind.NODE and update.node is not None:
            plain = replace(update.node, as_of=0.0)  # a node that only got a new time stamp has not changed
            if self._told.get(update.id) == plain:
                return True
            if (index := self._replaceable.get(update.id)) is not None:
                self._waiting[index] = update
                self._told[update.id] = plain
                return True
            if len(self._waiting) >= self._capacity:
                return False
            self._told[update.id] = plain
            self._replaceable[update.id] = len(self._waiting)
        else:
            if len(self._waiting) >= self._capacity:
                return False
            self._replaceable.pop(update.id, None)
            if update.kind is not UpdateKind.READY_FOR_HANDSHAKE:
                self._told.pop(update.id, None)
        self._waiting.append(update)
        return True

    def put_error(self, text: str) -> bool:
        """Add an error. False: full."""
        if len(self._waiting) >= self._capacity:
            return False
        self._waiting.append(text)
        return True

    def put_last(self, text: str) -> None:
        """Add the error that ends the session; there is always room for this one."""
        self._waiting.append(text)

    def take(self) -> list[PeerResponse]:
        """Everything that waits, as few responses as order allows."""
        waiting, self._waiting = self._waiting, []
        self._replaceable.clear()
        responses: list[PeerResponse] = []
        batch: list[PeerUpdate] = []
        for item in waiting:
            if isinstance(item, PeerUpdate) and len(batch) < _BATCH:
                batch.append(item)
                continue
            if batch:
                responses.append(PeerResponse(tuple(batch)))
            batch = [item] if isinstance(item, PeerUpdate) else []
            if isinstance(item, str):
                responses.append(PeerResponse(error=item))
        if batch:
            responses.append(PeerResponse(tuple(batch)))
        return responses

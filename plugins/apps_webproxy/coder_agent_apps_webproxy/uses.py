"""Who uses which app, for the connection log.

Requests of one visitor to one app are one use, however many connections his browser opens. It ends a minute after the
last request, with the bytes of all of them and the status of the last; a WebSocket or a stream that is open keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from coder_agent.hooks.events import WorkspaceConnection

from .tickets import Ticket
from .visit import Visit

IDLE_SECONDS = 60.0
"""Without a request for so long, a visitor has left. Polling pages ask more often."""
MAX_USES = 4096
"""Uses that are remembered; beyond that the one that was silent for longest ends early."""

Key = tuple[UUID, str, UUID | None, str, bytes]


@dataclass(slots=True)
class Use:
    """One visitor at one app. `rx`, `tx`: bytes towards the workspace and from it; `running`: requests in progress."""

    opening: WorkspaceConnection
    seen_at: float
    running: int = 0
    rx: int = 0
    tx: int = 0
    status: int = 0


class Uses:
    """All uses that go on. `emit` hears when one begins and ends."""

    def __init__(
        self, emit: Callable[[WorkspaceConnection], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._uses: dict[Key, Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def begin(self, visit: Visit, ticket: Ticket) -> Use:
        """A request, which `end` must follow."""
        agent = visit.request.named.get(b"user-agent", b"")
        key = (ticket.agent_id, visit.address.app, ticket.user_id, visit.client, agent)
        use = self._uses.get(key)
        if use is None:
            use = self._open(key, visit, ticket)
        use.running += 1
        return use

    def end(self, use: Use, rx: int, tx: int, status: int) -> None:
        """It was answered. `status` 0 = it was not."""
        use.running -= 1
        use.rx += rx
        use.tx += tx
        use.status = status or use.status
        use.seen_at = self._clock()

    def sweep(self) -> None:
        """End what is over. Called every second or so."""
        limit = self._clock() - IDLE_SECONDS
        for key, use in list(self._uses.items()):
            if not use.running and use.seen_at < limit:
                self._close(key)

    def close(self) -> None:
        """End all: the server stops."""
        for key in list(self._uses):
            self._close(key)

    def _open(self, key: Key, visit: Visit, ticket: Ticket) -> Use:
        while len(self._uses) >= MAX_USES:
            self._close(min(self._uses, key=lambda one: (self._uses[one].running > 0, self._uses[one].seen_at)))
        opening = WorkspaceConnection(
            id=uuid4(),
            opened=True,
            kind="workspace_app" if visit.address.slug else "port_forwarding",
            workspace_id=ticket.workspace_id,
            agent_name=ticket.agent,
            user_id=ticket.user_id,
            ip=visit.client,
            target=visit.address.slug or str(visit.address.port),
            user_agent=key[4].decode("latin-1"),
        )
        use = self._uses[key] = Use(opening, self._clock())
        self._emit(opening)
        return use

    def _close(self, key: Key) -> None:
        use = self._uses.pop(key)
        self._emit(replace(use.opening, opened=False, status=use.status or None, rx_bytes=use.rx, tx_bytes=use.tx))

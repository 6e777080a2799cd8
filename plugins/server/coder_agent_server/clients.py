"""Connected users' programs, counted and closable: who holds a coordination connection to which agent."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID


class Clients:
    """Client sessions by number. `close` functions must not wait."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[UUID | None, Callable[[str], None]]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, agent_id: UUID | None, close: Callable[[str], None]) -> Callable[[], None]:
        """A client is here, for `agent_id` (None = for all of a user's). Returns the call that removes it."""
        number, self._next = self._next, self._next + 1
        self._sessions[number] = (agent_id, close)
        return lambda: void(self._sessions.pop(number, None))

    def close_agent(self, agent_id: UUID, reason: str) -> None:
        """The agent is gone for good: so is every client's business with it."""
        for wanted, close in list(self._sessions.values()):
            if wanted == agent_id:
                close(reason)

    def close_all(self, reason: str) -> None:
        """The server is going away."""
        for _, close in list(self._sessions.values()):
            close(reason)


def void(_: object) -> None:
    """Turn a value into nothing, where a callback must return nothing."""

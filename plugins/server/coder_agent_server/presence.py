"""Which agents hold a control connection right now, and when each was last heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol
from uuid import UUID


class AgentSession(Protocol):
    """One control connection of an agent."""

    def close(self, reason: str) -> None:
        """End it; the agent reads `reason` in the WebSocket's close frame. Does not wait."""
        ...


class Presence:
    """Sessions by agent. A newer session of the same agent takes the place of the older one."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._sessions: dict[UUID, AgentSession] = {}
        self._seen: dict[UUID, datetime] = {}
        self._unsaved: dict[UUID, datetime] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, agent_id: UUID, session: AgentSession) -> None:
        """`session` is the agent's connection from now on; an older one is closed."""
        older = self._sessions.pop(agent_id, None)
        self._sessions[agent_id] = session
        self.seen(agent_id)
        if older is not None:
            older.close("another connection of this agent took over")

    def end(self, agent_id: UUID, session: AgentSession) -> datetime | None:
        """`session` is over. Answers when the agent was last heard, or None when a newer session has taken over."""
        if self._sessions.get(agent_id) is not session:
            return None
        del self._sessions[agent_id]
        self._unsaved.pop(agent_id, None)
        return self._seen.pop(agent_id, self._clock())

    def seen(self, agent_id: UUID) -> None:
        """The agent gave a sign of life."""
        self._seen[agent_id] = self._unsaved[agent_id] = self._clock()

    def last_seen(self, agent_id: UUID) -> datetime | None:
        """When a connected agent was last heard; None when it is not connected."""
        return self._seen.get(agent_id)

    def take_unsaved(self) -> Mapping[UUID, datetime]:
        """What was seen since the last call, to be written to the store in one go."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def close(self, agent_id: UUID, reason: str) -> None:
        """Close the agent's connection, if there is one."""
        session = self._sessions.get(agent_id)
        if session is not None:
            session.close(reason)

    def close_all(self, reason: str) -> None:
        """The server is going away."""
        for session in list(self._sessions.values()):
            session.close(reason)

"""Where everything that the dashboard shows comes together: told by the control connections, asked by visitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from .changes import Changes
from .day import Day
from .history import AgentHistory, Entry, Histories, Session

COUNTED_SECONDS = 30.0
"""A path report speaks for so many seconds at most: agents repeat theirs every 10 s while a path is in use."""


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """A user's program with a control connection to an agent. `program` is its User-Agent."""

    peer_id: UUID
    agent_id: UUID
    user_id: UUID
    username: str
    address: str
    program: str
    since: datetime


@dataclass(slots=True)
class Observatory:
    """`regions` names the relay regions of now."""

    clock: Callable[[], datetime]
    regions: Callable[[], Mapping[int, str]]
    changes: Changes = field(default_factory=Changes)
    day: Day = field(default_factory=Day)
    histories: Histories = field(default_factory=Histories)
    _clients: dict[UUID, ClientFacts] = field(default_factory=dict)
    _counted: dict[UUID, tuple[datetime, Sequence[Mapping[str, Any]]]] = field(default_factory=dict)

    # ------------------------------------------------------------ told

    def agent_connected(self, agent_id: UUID) -> None:
        """An agent's control connection began."""
        self._log(agent_id, "agent", "agent connected")

    def agent_left(self, agent_id: UUID, reason: str = "") -> None:
        """It ended."""
        self._count(agent_id, ())
        self._counted.pop(agent_id, None)
        self.histories.of(agent_id).lost()
        self._log(agent_id, "agent", "agent disconnected" + (f": {reason}" if reason else ""))

    def agent_heard(self, agent_id: UUID, seconds: float) -> None:
        """A ping of the control connection came back."""
        self.histories.of(agent_id).control.append(seconds * 1000)
        self.changes.touch(agent_id, soon=False)

    def agent_changed(self, agent_id: UUID) -> None:
        """Something else about an agent: what it said of itself, its apps, its shared ports."""
        self.changes.touch(agent_id)

    def workspace_changed(self, workspace_id: UUID) -> None:
        """A workspace appeared, was changed, or is gone."""
        self.changes.touch(workspace_id)

    def agent_removed(self, agent_id: UUID) -> None:
        """The agent is gone for good."""
        self.histories.forget(agent_id)
        self._counted.pop(agent_id, None)

    def client_came(self, client: ClientFacts) -> None:
        """A user's program connected, to reach an agent."""
        self._clients[client.peer_id] = client
        self._log(client.agent_id, "client", f"{client.username} connected from {client.address or 'a local socket'}")

    def client_left(self, client: ClientFacts) -> None:
        """It is gone."""
        if self._clients.get(client.peer_id) is client:
            del self._clients[client.peer_id]
        self._log(client.agent_id, "client", f"{client.username} disconnected")

    def session_changed(self, agent_id: UUID, session_id: str, session: Session, *, opened: bool, reason: str) -> None:
        """The agent tells of a session in the workspace: SSH, terminal, editor."""
        history = self.histories.of(agent_id)
        if opened:
            history.open_session(session_id, session)
        else:
            history.sessions.pop(session_id, None)
        what = session.kind.replace("reconnecting_pty", "terminal").replace("_", " ")
        what = what.upper() if what == "ssh" else what
        words = f"{what} {'opened' if opened else 'closed'}" + (f" from {session.address}" if session.address else "")
        self._log(agent_id, "session", words + (f": {reason}" if reason else ""))

    def paths_reported(self, agent_id: UUID, peers: Sequence[Mapping[str, Any]]) -> None:
        """The agent tells which way its packets go."""
        self._count(agent_id, peers)
        names = {str(client.peer_id): client.username for client in self._clients.values()}
        self.histories.of(agent_id).report(peers, names, self.regions(), self.clock())
        self.changes.touch(agent_id)

    # ------------------------------------------------------------ asked

    def clients_of(self, agent_id: UUID) -> list[ClientFacts]:
        """Users' programs that are connected for this agent, oldest first."""
        return [client for client in self._clients.values() if client.agent_id == agent_id]

    def client(self, peer_id: str) -> ClientFacts | None:
        """Whose peer is this?"""
        try:
            return self._clients.get(UUID(peer_id))
        except ValueError:
            return None

    def history(self, agent_id: UUID) -> AgentHistory:
        """An agent's history, for reading."""
        return self.histories.look(agent_id)

    # ------------------------------------------------------------ inside

    def _log(self, agent_id: UUID, kind: str, text: str) -> None:
        self.histories.of(agent_id).entries.append(Entry(self.clock(), kind, text[:500]))
        self.changes.touch(agent_id)

    def _count(self, agent_id: UUID, peers: Sequence[Mapping[str, Any]]) -> None:
        now = self.clock()
        then, before = self._counted.get(agent_id, (now, ()))
        seconds = min((now - then).total_seconds(), COUNTED_SECONDS)
        for peer in before:
            if peer["active"] and seconds > 0:
                verdict = peer.get("verdict")
                cause = str(verdict.get("code", "")) if isinstance(verdict, Mapping) else ""
                self.day.add(str(peer["kind"]), cause[:64], seconds, now)
        self._counted[agent_id] = (now, peers)

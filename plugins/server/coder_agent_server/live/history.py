"""The last half hour of an agent in numbers, and its last changes in words. Bounded per agent and in all."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

MAX_SAMPLES = 120
"""Latencies of an agent: half an hour at one in 15 s, the pings of its control connection."""
MAX_ENTRIES = 200
"""Lines of an agent's log."""
MAX_SESSIONS = 256
"""SSH and terminal sessions of an agent that are remembered as open."""
MAX_AGENTS = 5_000
"""Agents with a history; the one that was silent for longest loses it first. Full ones are about 60 kB each."""
STALE_SECONDS = 60.0
"""Bytes per second are only known between two reports that are at most so far apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log. `kind`: agent, client, path or session; `code`: a verdict's cause, if there is one."""

    at: datetime
    kind: str
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A session inside the workspace, as the agent reported it. `kind`: ssh, vscode, jetbrains, reconnecting_pty."""

    kind: str
    address: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second, as the agent sees it."""

    received: float = 0.0
    sent: float = 0.0


@dataclass(slots=True)
class _Peer:
    kind: str
    path: str
    code: str
    who: str
    at: datetime
    received: int | None
    sent: int | None
    rate: Rate = Rate()


@dataclass(slots=True)
class AgentHistory:
    """One agent's. `control`: round trips of its control connection, `path`: of the way to its clients; ms."""

    control: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    path: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    """Bytes per second over all peers, both ways."""
    entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=MAX_ENTRIES))
    sessions: dict[str, Session] = field(default_factory=dict)
    peers: dict[str, _Peer] = field(default_factory=dict)

    def rate_of(self, peer_id: str) -> Rate:
        """Throughput to one peer now."""
        peer = self.peers.get(peer_id)
        return Rate() if peer is None else peer.rate

    @property
    def rate(self) -> Rate:
        """Throughput to all peers together."""
        rates = [peer.rate for peer in self.peers.values()]
        return Rate(sum(rate.received for rate in rates), sum(rate.sent for rate in rates))

    def open_session(self, session_id: str, session: Session) -> None:
        """A session began."""
        while len(self.sessions) >= MAX_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        self.sessions[session_id] = session

    def report(
        self, peers: Sequence[Mapping[str, Any]], names: Mapping[str, str], regions: Mapping[int, str], now: datetime
    ) -> None:
        """Take an agent's path report: what changed becomes a line, bytes become rates.

        `names`: who the peers are, by id; `regions`: names of relay regions.
        """
        found: dict[str, _Peer] = {}
        for document in peers:
            peer_id, was = str(document["peer_id"]), self.peers.get(str(document["peer_id"]))
            # An agent's peers are its users' programs and this server's own node.
            who = names.get(peer_id) or ("this server" if was is None else was.who)
            peer = found[peer_id] = _read_peer(document, was, who, now)
            before = ("none", "") if was is None else (was.kind, was.path)
            if before != (peer.kind, peer.path):
                self.entries.append(Entry(now, "path", f"{who}: {path_words(document, regions)}", peer.code))
            if document["active"] and document["latency_ms"] is not None:
                self.path.append(float(document["latency_ms"]))
        self.peers = found
        total = self.rate
        self.rates.append(total.received + total.sent)

    def lost(self) -> None:
        """The agent is gone, and with it what it was doing."""
        self.sessions.clear()
        self.peers.clear()


class Histories:
    """The histories of all agents."""

    def __init__(self) -> None:
        self._agents: dict[UUID, AgentHistory] = {}

    def of(self, agent_id: UUID) -> AgentHistory:
        """An agent's history, which begins now if there is none."""
        found = self._agents.pop(agent_id, None) or AgentHistory()
        while len(self._agents) >= MAX_AGENTS:
            del self._agents[next(iter(self._agents))]
        self._agents[agent_id] = found  # as the last: what was touched last is forgotten last
        return found

    def look(self, agent_id: UUID) -> AgentHistory:
        """An agent's history for reading; an empty one if there is none."""
        return self._agents.get(agent_id) or AgentHistory()

    def forget(self, agent_id: UUID) -> None:
        """The agent is gone for good."""
        self._agents.pop(agent_id, None)


def path_words(document: Mapping[str, Any], regions: Mapping[int, str]) -> str:
    """A path in the words that every surface uses: ``direct``, ``relayed via Frankfurt``, ``not reachable``."""
    if document["kind"] == "direct":
        return f"direct, {document['path']}"
    if document["kind"] == "relayed":
        return f"relayed via {region_name(str(document['path']), regions)}"
    return "not reachable"


def region_name(path: str, regions: Mapping[int, str]) -> str:
    """The name of the region in ``derp:<region>``."""
    number = path.removeprefix("derp:")
    known = regions.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 10 else None
    return known or (f"region {number}" if number else "a relay")


def _read_peer(document: Mapping[str, Any], was: _Peer | None, who: str, now: datetime) -> _Peer:
    verdict = document.get("verdict")
    code = str(verdict.get("code", "")) if isinstance(verdict, Mapping) else ""
    peer = _Peer(
        kind=str(document["kind"]),
        path=str(document["path"]),
        code=code[:64],
        who=who,
        at=now,
        received=document.get("rx_bytes"),
        sent=document.get("tx_bytes"),
    )
    if was is not None:
        peer.rate = _rate(was, peer)
    return peer


def _rate(was: _Peer, now: _Peer) -> Rate:
    seconds = (now.at - was.at).total_seconds()
    if not 0 < seconds <= STALE_SECONDS:
        return Rate()
    return Rate(_growth(was.received, now.received) / seconds, _growth(was.sent, now.sent) / seconds)


def _growth(was: int | None, now: int | None) -> int:
    """Bytes since then. A node that was restarted counts from nothing again."""
    return 0 if was is None or now is None else max(0, now - was)

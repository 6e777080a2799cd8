"""What connected agents last said about the ways to their peers. In memory: after a restart they say it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

MAX_CHARACTERS = 64 << 20
"""Of all reports together, as JSON; the agent that was silent for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Reported:
    """One agent's newest report."""

    at: datetime
    peers: Sequence[Mapping[str, Any]]
    size: int


class ReportBoard:
    """The newest report of each agent."""

    def __init__(self) -> None:
        self._newest: dict[UUID, Reported] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._newest)

    def put(self, agent_id: UUID, peers: Sequence[Mapping[str, Any]], at: datetime) -> None:
        """Replace what the agent said before."""
        self.forget(agent_id)
        size = len(json.dumps(peers))
        self._newest[agent_id] = Reported(at, peers, size)
        self._size += size
        while self._size > MAX_CHARACTERS:
            self.forget(next(iter(self._newest)))

    def newest(self, agent_id: UUID) -> Reported | None:
        """What the agent said last."""
        return self._newest.get(agent_id)

    def kinds(self) -> Mapping[str, int]:
        """How many peers of all agents are reached directly, relayed, or not at all."""
        found = dict.fromkeys(("direct", "relayed", "none"), 0)
        for report in self._newest.values():
            for peer in report.peers:
                found[peer["kind"]] += 1
        return found

    def forget(self, agent_id: UUID) -> None:
        """The agent is gone."""
        gone = self._newest.pop(agent_id, None)
        if gone is not None:
            self._size -= gone.size

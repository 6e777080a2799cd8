"""What the store says of an agent that somebody wants to reach: whose it is, which rules hold, when it was here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from coder_agent.base.path_rules import PathRules
from coder_agent.errors import PeerUnreachable

from ..options import ServerOptions
from ..path_rules import rules_for
from ..store.agents import find_agent
from ..store.database import Database

START_HINT = "start `coder-agent run` on that machine, or look at its log"


@dataclass(frozen=True, slots=True)
class Standing:
    """`label`: owner/workspace.agent. `gone_since`: when it was last here; None = never."""

    label: str
    rules: PathRules
    gone_since: datetime | None

    def unreachable(self, now: datetime) -> PeerUnreachable:
        """The error for an agent that is not connected, in the words that clients use (directory.py)."""
        if self.gone_since is None:
            return PeerUnreachable(f"workspace {self.label}: its agent has never connected", hint=START_HINT)
        when = self.gone_since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return PeerUnreachable(
            f"workspace {self.label}: its agent is not connected since {when} ({age(now - self.gone_since)} ago)",
            hint=START_HINT,
        )


Lookup = Callable[[UUID], Awaitable[Standing | None]]
"""The standing of an agent; None = there is no such agent."""


def standing_of(database: Database, options: ServerOptions) -> Lookup:
    """A `Lookup` in the store."""

    async def look(agent_id: UUID) -> Standing | None:
        async with database.read() as session:
            agent = await find_agent(session, agent_id)
            if agent is None:
                return None
            workspace = agent.workspace
            return Standing(
                f"{workspace.owner.username}/{workspace.name}.{agent.name}",
                rules_for(options, workspace),
                agent.disconnected_at or agent.last_connected_at,
            )

    return look


def age(span: timedelta) -> str:
    """A length of time in one unit: ``3 min``."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

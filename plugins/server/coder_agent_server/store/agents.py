"""Agents: who they are, when they were here, what they reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from ..tokens import new_agent_token, secret_hash
from .schema import Agent, AgentLog, Workspace

MAX_LOG_BYTES = 1 << 20
"""Log text kept per agent, as in the original product; what comes later is refused and the overflow recorded."""

LIFECYCLE_READY = frozenset({"ready", "start_timeout", "start_error"})
"""States that mean: starting is over. They set `ready_at`."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a script's output."""

    created_at: datetime
    level: str
    output: str


async def find_agent(session: AsyncSession, agent_id: UUID) -> Agent | None:
    """By id, with its workspace and that one's owner."""
    return (await session.scalars(_complete().where(Agent.id == agent_id))).one_or_none()


async def find_agent_by_token(session: AsyncSession, token: UUID) -> Agent | None:
    """Whose token is this? Found by its hash, so that timing says nothing about the token."""
    return (await session.scalars(_complete().where(Agent.token_hash == secret_hash(token)))).one_or_none()


def _complete() -> Select[Agent]:
    return select(Agent).options(
        selectinload(Agent.workspace).options(
            selectinload(Workspace.owner), selectinload(Workspace.organization), selectinload(Workspace.shares)
        ),
        selectinload(Agent.apps),
    )


async def replace_token(session: AsyncSession, agent_id: UUID, now: datetime) -> UUID:
    """Give an agent a new token; the old one is worthless from now on."""
    token = new_agent_token()
    change = update(Agent).where(Agent.id == agent_id)
    await session.execute(change.values(token_hash=secret_hash(token), updated_at=now))
    return token


async def mark_connected(
    session: AsyncSession, agent_id: UUID, token_hash: bytes, api_version: str, now: datetime
) -> bool:
    """Its control connection is up. False: the agent, or the token it came with, was removed in the meantime."""
    agent = await session.get(Agent, agent_id)
    if agent is None or agent.token_hash != token_hash:
        return False
    agent.first_connected_at = agent.first_connected_at or now
    agent.last_connected_at = now
    agent.disconnected_at = None
    agent.api_version = api_version
    return True


async def mark_disconnected(session: AsyncSession, agent_id: UUID, last_seen: datetime, now: datetime) -> None:
    """Its control connection ended."""
    change = update(Agent).where(Agent.id == agent_id)
    await session.execute(change.values(last_connected_at=last_seen, disconnected_at=now))


async def record_seen(session: AsyncSession, seen: Mapping[UUID, datetime]) -> None:
    """These agents answered a ping, all in one transaction."""
    for agent_id, when in seen.items():
        await session.execute(update(Agent).where(Agent.id == agent_id).values(last_connected_at=when))


async def record_startup(
    session: AsyncSession, agent_id: UUID, version: str, directory: str, subsystems: Sequence[str]
) -> None:
    """What an agent says about itself after its manifest."""
    change = update(Agent).where(Agent.id == agent_id)
    await session.execute(
        change.values(version=version, expanded_directory=directory, subsystems=sorted(set(subsystems)))
    )


async def record_lifecycle(session: AsyncSession, agent_id: UUID, state: str, when: datetime) -> None:
    """A state change. `started_at` and `ready_at` always exist once the state implies them: stock clients rely on it.

    A second STARTING (the agent's process was restarted) begins a new life: ready_at goes back to nothing.
    """
    agent = await session.get(Agent, agent_id)
    if agent is None:
        return
    if state == "starting":
        agent.started_at, agent.ready_at = when, None
    elif state in LIFECYCLE_READY:
        agent.started_at = agent.started_at or when
        agent.ready_at = when
    agent.lifecycle_state = state


async def add_logs(session: AsyncSession, agent_id: UUID, source_id: UUID, lines: Sequence[LogLine]) -> bool:
    """Keep these lines; returns True when the agent has used up its space and should stop sending."""
    agent = await session.get(Agent, agent_id)
    if agent is None or agent.logs_overflowed:
        return True
    size = sum(len(line.output.encode()) for line in lines)
    if agent.logs_size + size > MAX_LOG_BYTES:
        agent.logs_overflowed = True
        return True
    agent.logs_size += size
    session.add_all(
        AgentLog(
            agent_id=agent_id, source_id=source_id, created_at=line.created_at, level=line.level, output=line.output
        )
        for line in lines
    )
    return False


async def logs_after(session: AsyncSession, agent_id: UUID, after: int, limit: int = 10_000) -> list[AgentLog]:
    """Log lines with ids above `after`, in order."""
    found = select(AgentLog).where(AgentLog.agent_id == agent_id, AgentLog.id > after).order_by(AgentLog.id)
    return list(await session.scalars(found.limit(limit)))

"""Workspaces: registered here, run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import immediateload, selectinload

from ..tokens import new_agent_token, secret_hash
from .accounts import NameTaken
from .apps import NewApp, declared
from .schema import Agent, User, Workspace


@dataclass(frozen=True, slots=True)
class NewAgent:
    """What an agent is registered with; the rest it reports itself."""

    name: str
    architecture: str = "amd64"
    operating_system: str = "linux"
    directory: str = ""


@dataclass(frozen=True, slots=True)
class WorkspaceFilter:
    """Which workspaces a list shows. None = whatever. `name` is part of a name (coder workspaces.sql, ILIKE)."""

    visible_to: UUID | None
    owner: str | None = None
    name: str | None = None
    text: str | None = None
    ids: frozenset[UUID] | None = None


def _complete() -> Select[Workspace]:
    return select(Workspace).options(
        selectinload(Workspace.owner),
        selectinload(Workspace.organization),
        selectinload(Workspace.agents).options(
            selectinload(Agent.apps),
            immediateload(Agent.workspace),  # the one at hand: no query
        ),
        selectinload(Workspace.shares),
    )


async def add_workspace(
    session: AsyncSession, owner: User, name: str, agent: NewAgent, now: datetime, apps: Sequence[NewApp] = ()
) -> tuple[Workspace, UUID]:
    """Register a workspace with one agent; returns it and the agent's token. Raises NameTaken."""
    taken = select(Workspace.id).where(Workspace.owner_id == owner.id, Workspace.name == name)
    if await session.scalar(taken) is not None:
        raise NameTaken("name")
    token = new_agent_token()
    workspace = Workspace(
        id=uuid4(),
        organization_id=owner.organization_id,
        owner_id=owner.id,
        name=name,
        build_id=uuid4(),
        resource_id=uuid4(),
        job_id=uuid4(),
        created_at=now,
        updated_at=now,
        last_used_at=now,
        agents=[
            Agent(
                id=uuid4(),
                name=agent.name,
                token_hash=secret_hash(token),
                architecture=agent.architecture,
                operating_system=agent.operating_system,
                directory=agent.directory,
                created_at=now,
                updated_at=now,
                apps=[declared(app, now) for app in apps],
            )
        ],
        shares=[],
    )
    session.add(workspace)
    await session.flush()
    made = await find_workspace(session, workspace.id)
    assert made is not None
    return made, token


async def find_workspace(session: AsyncSession, workspace_id: UUID) -> Workspace | None:
    """By id, with owner, organization and agents."""
    return (await session.scalars(_complete().where(Workspace.id == workspace_id))).one_or_none()


async def find_workspace_by_name(session: AsyncSession, owner_id: UUID, name: str) -> Workspace | None:
    """By owner and name."""
    found = _complete().where(Workspace.owner_id == owner_id, Workspace.name == name.lower())
    return (await session.scalars(found)).one_or_none()


async def find_workspace_by_build(session: AsyncSession, build_id: UUID) -> Workspace | None:
    """By the id of its build."""
    return (await session.scalars(_complete().where(Workspace.build_id == build_id))).one_or_none()


async def list_workspaces(
    session: AsyncSession, which: WorkspaceFilter, limit: int = 0, offset: int = 0
) -> tuple[list[Workspace], int]:
    """A page of workspaces sorted by owner and name, and how many there are."""
    found = _complete().join(User, User.id == Workspace.owner_id)
    if which.visible_to is not None:
        found = found.where(Workspace.owner_id == which.visible_to)
    if which.owner is not None:
        found = found.where(User.username == which.owner.lower())
    if which.name is not None:
        found = found.where(Workspace.name.contains(which.name.lower(), autoescape=True))
    if which.ids is not None:
        found = found.where(Workspace.id.in_(which.ids))
    if which.text:
        found = found.where(Workspace.name.contains(which.text.lower()))
    count = await session.scalar(select(func.count()).select_from(found.subquery())) or 0
    page = found.order_by(User.username, Workspace.name).limit(limit or None).offset(offset)
    return list(await session.scalars(page)), count


async def delete_workspace(session: AsyncSession, workspace_id: UUID) -> list[UUID]:
    """Forget a workspace; returns the ids of the agents that went with it."""
    workspace = await find_workspace(session, workspace_id)
    if workspace is None:
        return []
    gone = [agent.id for agent in workspace.agents]
    await session.delete(workspace)
    return gone


async def touch_workspace(session: AsyncSession, workspace_id: UUID, now: datetime) -> None:
    """Somebody used it."""
    workspace = await session.get(Workspace, workspace_id)
    if workspace is not None:
        workspace.last_used_at = now


async def set_path_rules(session: AsyncSession, workspace_id: UUID, rules: dict[str, Any], now: datetime) -> bool:
    """Replace a workspace's path rules; {} = none. False if it is gone."""
    workspace = await session.get(Workspace, workspace_id)
    if workspace is None:
        return False
    workspace.path_rules, workspace.updated_at = rules, now
    return True

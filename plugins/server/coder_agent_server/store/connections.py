"""The connection log: who was connected to which workspace, from where, how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from coder_agent.hooks.events import WorkspaceConnection

from .schema import ConnectionLog, User, Workspace

KEPT_DAYS = timedelta(days=90)
KEPT_ROWS = 100_000
"""Whichever is less: the log must not fill the disk."""


@dataclass(frozen=True, slots=True)
class ConnectionFilter:
    """Which connections a list shows; None = whatever. `owner_id` of the workspace. `open`: still going on."""

    owner_id: UUID | None = None
    workspace_id: UUID | None = None
    owner_name: str | None = None
    username: str | None = None
    kind: str | None = None
    open: bool | None = None


async def record(session: AsyncSession, events: Sequence[tuple[WorkspaceConnection, datetime]]) -> None:
    """Write what happened, in order. An end without a beginning is a short connection."""
    for event, when in events:
        row = await session.get(ConnectionLog, event.id)
        if row is None:
            row = await _begin(session, event, when)
            if row is None:
                continue
        if not event.opened:
            row.disconnected_at = when
            row.status_code, row.reason = event.status, event.reason[:256]
            row.rx_bytes, row.tx_bytes = event.rx_bytes, event.tx_bytes
        await session.flush()


async def _begin(session: AsyncSession, event: WorkspaceConnection, when: datetime) -> ConnectionLog | None:
    found = select(Workspace).options(selectinload(Workspace.owner)).where(Workspace.id == event.workspace_id)
    workspace = (await session.scalars(found)).one_or_none()
    if workspace is None:
        return None
    user = await session.get(User, event.user_id) if event.user_id is not None else None
    row = ConnectionLog(
        id=event.id,
        workspace_id=workspace.id,
        workspace_owner_id=workspace.owner_id,
        workspace_owner_name=workspace.owner.username,
        workspace_name=workspace.name,
        agent_name=event.agent_name[:32],
        kind=event.kind[:24],
        user_id=event.user_id,
        username=user.username if user is not None else "",
        ip=event.ip[:64],
        user_agent=event.user_agent[:256],
        slug_or_port=event.target[:64],
        connected_at=when,
    )
    session.add(row)
    return row


async def close_open(session: AsyncSession, now: datetime) -> None:
    """The server starts: nothing of before is still connected through it."""
    for row in await session.scalars(select(ConnectionLog).where(ConnectionLog.disconnected_at.is_(None))):
        row.disconnected_at, row.reason = now, "the server was stopped"


async def prune(session: AsyncSession, now: datetime) -> None:
    """Forget what is old, and what is too much."""
    await session.execute(delete(ConnectionLog).where(ConnectionLog.connected_at < now - KEPT_DAYS))
    newest = select(ConnectionLog.id).order_by(ConnectionLog.connected_at.desc()).limit(KEPT_ROWS)
    count = await session.scalar(select(func.count()).select_from(ConnectionLog)) or 0
    if count > KEPT_ROWS:
        await session.execute(delete(ConnectionLog).where(ConnectionLog.id.not_in(newest)))


async def newest_of(session: AsyncSession, workspace_id: UUID, limit: int) -> list[ConnectionLog]:
    """The newest connections of a workspace."""
    found = select(ConnectionLog).where(ConnectionLog.workspace_id == workspace_id)
    return list(await session.scalars(found.order_by(ConnectionLog.connected_at.desc(), ConnectionLog.id).limit(limit)))


async def list_connections(
    session: AsyncSession, which: ConnectionFilter, limit: int, offset: int
) -> tuple[list[ConnectionLog], int]:
    """A page, newest first, and how many there are."""
    found = select(ConnectionLog)
    for column, wanted in (
        (ConnectionLog.workspace_owner_id, which.owner_id),
        (ConnectionLog.workspace_id, which.workspace_id),
        (ConnectionLog.workspace_owner_name, which.owner_name),
        (ConnectionLog.username, which.username),
        (ConnectionLog.kind, which.kind),
    ):
        if wanted is not None:
            found = found.where(column == wanted)
    if which.open is not None:
        ended = ConnectionLog.disconnected_at
        found = found.where(ended.is_(None) if which.open else ended.is_not(None))
    count = await session.scalar(select(func.count()).select_from(found.subquery())) or 0
    page = found.order_by(ConnectionLog.connected_at.desc(), ConnectionLog.id).limit(limit or None).offset(offset)
    return list(await session.scalars(page)), count

"""Apps of agents, and ports that are shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from coder_agent.hooks.web import AppHealth, CorsBehavior, Healthcheck, SharingLevel, WebApp
from coder_agent.hooks.web import PortShare as SharedPort

from .accounts import NameTaken
from .schema import App, PortShare

MAX_APPS = 100
"""Apps of one agent: a manifest must stay a message of reasonable size."""
MAX_SHARES = 256
"""Shared ports of one workspace."""

FROM_USER = "user"
FROM_AGENT = "agent"


class TooMany(Exception):
    """No further one is kept. `limit` says how many there may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class NewApp:
    """What an app is declared with (hooks/web.py WebApp says what each means)."""

    slug: str
    display_name: str = ""
    url: str = ""
    icon: str = ""
    command: str = ""
    external: bool = False
    subdomain: bool = False
    sharing_level: str = "owner"
    healthcheck_url: str = ""
    healthcheck_interval: int = 0
    healthcheck_threshold: int = 0
    hidden: bool = False
    order: int = 0
    open_in: str = "slim-window"
    cors_behavior: str = "simple"
    trusted: bool = False

    @property
    def first_health(self) -> AppHealth:
        """What is known of it before anybody has looked."""
        return AppHealth.INITIALIZING if self.healthcheck_url else AppHealth.DISABLED


def web_app(row: App) -> WebApp:
    """The row as plugins see it."""
    return WebApp(
        id=row.id,
        agent_id=row.agent_id,
        slug=row.slug,
        display_name=row.display_name or row.slug,
        url=row.url,
        icon=row.icon,
        command=row.command,
        external=row.external,
        subdomain=row.subdomain,
        sharing_level=SharingLevel(row.sharing_level),
        healthcheck=Healthcheck(row.healthcheck_url, row.healthcheck_interval, row.healthcheck_threshold),
        health=AppHealth(row.health),
        hidden=row.hidden,
        order=row.order,
        open_in=row.open_in,
        cors_behavior=CorsBehavior(row.cors_behavior),
        trusted=row.trusted,
    )


def shared_port(row: PortShare) -> SharedPort:
    """The row as plugins see it."""
    return SharedPort(row.port, SharingLevel(row.share_level), row.protocol, row.trusted)


def declared(new: NewApp, now: datetime) -> App:
    """The row of an app that comes with its agent."""
    row = App(id=uuid4(), slug=new.slug, created_at=now)
    _fill(row, new, FROM_USER, now)
    return row


async def add_app(session: AsyncSession, agent_id: UUID, new: NewApp, now: datetime, *, replace: bool = False) -> App:
    """Declare an app; with `replace` one of the same slug is changed instead. Raises NameTaken, TooMany."""
    found = (await session.scalars(select(App).where(App.agent_id == agent_id, App.slug == new.slug))).one_or_none()
    if found is not None and not replace:
        raise NameTaken("slug")
    if found is None:
        count = await session.scalar(select(func.count()).select_from(App).where(App.agent_id == agent_id)) or 0
        if count >= MAX_APPS:
            raise TooMany(MAX_APPS)
        found = App(id=uuid4(), agent_id=agent_id, slug=new.slug, created_at=now)
        session.add(found)
    _fill(found, new, FROM_USER, now)
    await session.flush()
    return found


@dataclass(frozen=True, slots=True)
class Reported:
    """What came of an agent's report. `taken`: slugs that were left out, because the owner gave them to other apps."""

    changed: bool
    taken: list[str]


async def report_apps(session: AsyncSession, agent_id: UUID, wanted: Sequence[NewApp], now: datetime) -> Reported:
    """What the agent's own configuration declares, in place of what it declared before."""
    rows = {row.slug: row for row in await session.scalars(select(App).where(App.agent_id == agent_id))}
    taken = [new.slug for new in wanted if new.slug in rows and rows[new.slug].source != FROM_AGENT]
    mine = {new.slug: new for new in wanted if new.slug not in taken}
    changed = False
    for slug, new in mine.items():
        row = rows.get(slug)
        if row is not None and _is_as(row, new):
            continue
        changed = True
        if row is None:
            row = App(id=uuid4(), agent_id=agent_id, slug=slug, created_at=now)
            session.add(row)
        _fill(row, new, FROM_AGENT, now)
    for row in rows.values():
        if row.source == FROM_AGENT and row.slug not in mine:
            changed = True
            await session.delete(row)
    return Reported(changed, taken)


_FIELDS = tuple(field.name for field in fields(NewApp))


def _is_as(row: App, new: NewApp) -> bool:
    return all(getattr(row, name) == getattr(new, name) for name in _FIELDS)


def _fill(row: App, new: NewApp, source: str, now: datetime) -> None:
    checked = row.healthcheck_url if row.health else None
    for name in _FIELDS:
        setattr(row, name, getattr(new, name))
    row.source, row.updated_at = source, now
    if checked != new.healthcheck_url:
        row.health = new.first_health.value


async def remove_app(session: AsyncSession, agent_id: UUID, slug: str) -> bool:
    """Forget an app. False: there was none."""
    row = (await session.scalars(select(App).where(App.agent_id == agent_id, App.slug == slug))).one_or_none()
    if row is not None:
        await session.delete(row)
    return row is not None


async def set_health(session: AsyncSession, agent_id: UUID, health: dict[UUID, str]) -> None:
    """What the agent says about its own apps; those of others stay as they are."""
    for app_id, state in health.items():
        mine = update(App).where(App.id == app_id, App.agent_id == agent_id)
        await session.execute(mine.values(health=state))


# ---------------------------------------------------------------- ports


async def share_port(session: AsyncSession, workspace_id: UUID, agent_name: str, share: SharedPort) -> None:
    """Share a port, or change how it is shared. Raises TooMany."""
    row = await session.get(PortShare, (workspace_id, agent_name, share.port))
    if row is None:
        mine = select(func.count()).select_from(PortShare).where(PortShare.workspace_id == workspace_id)
        if (await session.scalar(mine) or 0) >= MAX_SHARES:
            raise TooMany(MAX_SHARES)
        row = PortShare(workspace_id=workspace_id, agent_name=agent_name, port=share.port)
        session.add(row)
    row.share_level, row.protocol, row.trusted = share.sharing_level.value, share.protocol, share.trusted


async def unshare_port(session: AsyncSession, workspace_id: UUID, agent_name: str, port: int) -> bool:
    """It is its owner's alone again. False: it was not shared."""
    row = await session.get(PortShare, (workspace_id, agent_name, port))
    if row is None:
        return False
    await session.execute(
        delete(PortShare).where(
            PortShare.workspace_id == workspace_id, PortShare.agent_name == agent_name, PortShare.port == port
        )
    )
    return True

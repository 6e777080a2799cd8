"""Users, their organization and their keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coder_agent.hooks.web import SCOPE_ALL

from ..tokens import ApiToken, secret_hash
from .schema import ApiKey, Organization, User, Workspace

LAST_USED_STEP = timedelta(minutes=1)
"""`last_used` is written at most this often: a write per request would make every GET a transaction."""

MAX_KEYS_PER_USER = 1000
"""Sessions and tokens of one user; the oldest go first, so that a login loop cannot fill the disk."""


SESSION_LOGIN, TOKEN_LOGIN, APP_LOGIN = "password", "token", "app"
"""How a key came to be: by signing in, by name, or for a web app by redirect."""


class NameTaken(Exception):
    """A unique name exists already. `field` says which."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class HasWorkspaces(Exception):
    """An account that still owns workspaces cannot go."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """What an account is made from."""

    username: str
    email: str
    name: str
    password_hash: str
    is_owner: bool


async def user_count(session: AsyncSession) -> int:
    """How many accounts exist."""
    return await session.scalar(select(func.count()).select_from(User)) or 0


async def default_organization(session: AsyncSession) -> Organization:
    """The organization that `open_deployment` made."""
    return (await session.scalars(select(Organization).where(Organization.is_default))).one()


async def add_user(session: AsyncSession, new: NewUser, now: datetime) -> User:
    """Make an account. Raises NameTaken."""
    username, email = new.username.lower(), new.email.lower()
    if await session.scalar(select(User.id).where(User.username == username)) is not None:
        raise NameTaken("username")
    if await session.scalar(select(User.id).where(User.email == email)) is not None:
        raise NameTaken("email")
    user = User(
        id=uuid4(),
        organization_id=(await default_organization(session)).id,
        username=username,
        email=email,
        name=new.name,
        password_hash=new.password_hash,
        is_owner=new.is_owner,
        status="active",
        created_at=now,
        updated_at=now,
        last_seen_at=now,
    )
    session.add(user)
    await session.flush()
    return user


async def find_user(session: AsyncSession, who: str) -> User | None:
    """By UUID or by name."""
    try:
        return await session.get(User, UUID(who))
    except ValueError:
        return (await session.scalars(select(User).where(User.username == who.lower()))).one_or_none()


async def find_user_by_email(session: AsyncSession, email: str) -> User | None:
    """For signing in."""
    return (await session.scalars(select(User).where(User.email == email.lower()))).one_or_none()


async def delete_user(session: AsyncSession, user_id: UUID) -> None:
    """Forget an account and its keys. Raises HasWorkspaces."""
    if await session.scalar(select(Workspace.id).where(Workspace.owner_id == user_id).limit(1)) is not None:
        raise HasWorkspaces
    await session.execute(delete(ApiKey).where(ApiKey.user_id == user_id))
    await session.execute(delete(User).where(User.id == user_id))


async def search_users(session: AsyncSession, text: str, limit: int, offset: int) -> tuple[list[User], int]:
    """A page of users whose name or address contains `text`, and how many there are."""
    found = select(User)
    if text:
        found = found.where(or_(User.username.contains(text.lower()), User.email.contains(text.lower())))
    count = await session.scalar(select(func.count()).select_from(found.subquery())) or 0
    page = found.order_by(User.username).limit(limit or None).offset(offset)
    return list(await session.scalars(page)), count


async def add_key(
    session: AsyncSession,
    user: User,
    lifetime: timedelta,
    now: datetime,
    *,
    login_type: str,
    token_name: str = "",
    scope: str = SCOPE_ALL,
) -> ApiToken:
    """Make a session (SESSION_LOGIN), a named token or a key for an app. Raises NameTaken."""
    token = ApiToken.generate()
    seconds = int(lifetime.total_seconds())
    session.add(
        ApiKey(
            id=token.id,
            user_id=user.id,
            secret_hash=secret_hash(token.secret),
            login_type=login_type,
            scope=scope,
            token_name=token_name,
            lifetime_seconds=seconds,
            last_used=now,
            expires_at=now + timedelta(seconds=seconds),
            created_at=now,
            updated_at=now,
        )
    )
    try:
        await session.flush()
    except IntegrityError as exc:
        raise NameTaken("token_name") from exc
    await _forget_old_keys(session, user.id, now)
    return token


async def _forget_old_keys(session: AsyncSession, user_id: UUID, now: datetime) -> None:
    await session.execute(delete(ApiKey).where(ApiKey.expires_at < now))
    newest = (
        select(ApiKey.id)
        .where(ApiKey.user_id == user_id)
        .order_by(ApiKey.created_at.desc(), ApiKey.id)
        .limit(MAX_KEYS_PER_USER)
    )
    await session.execute(delete(ApiKey).where(ApiKey.user_id == user_id, ApiKey.id.not_in(newest)))


async def find_key(session: AsyncSession, key_id: str) -> tuple[ApiKey, User] | None:
    """A key and whose it is."""
    found = select(ApiKey, User).join(User, User.id == ApiKey.user_id).where(ApiKey.id == key_id)
    row = (await session.execute(found)).one_or_none()
    return None if row is None else (row[0], row[1])


async def touch_key(session: AsyncSession, key_id: str, now: datetime) -> None:
    """A key was used. A session lives on for its whole lifetime from now; a named token's end is fixed."""
    key = await session.get(ApiKey, key_id)
    if key is None:
        return
    key.last_used = now
    if key.login_type == SESSION_LOGIN:
        key.expires_at = now + timedelta(seconds=key.lifetime_seconds)
    user = await session.get(User, key.user_id)
    if user is not None:
        user.last_seen_at = now


async def user_keys(session: AsyncSession, user_id: UUID | None, *, tokens_only: bool) -> list[tuple[ApiKey, User]]:
    """The keys of a user, of everybody with None; newest first."""
    found = select(ApiKey, User).join(User, User.id == ApiKey.user_id).order_by(ApiKey.created_at.desc())
    if user_id is not None:
        found = found.where(ApiKey.user_id == user_id)
    if tokens_only:
        found = found.where(ApiKey.login_type == TOKEN_LOGIN)
    return [(row[0], row[1]) for row in await session.execute(found)]


async def find_user_key(session: AsyncSession, user_id: UUID, key_id: str) -> ApiKey | None:
    """One key of a user by its id or its token name."""
    found = select(ApiKey).where(ApiKey.user_id == user_id, or_(ApiKey.id == key_id, ApiKey.token_name == key_id))
    return (await session.scalars(found.limit(1))).one_or_none()


async def delete_key(session: AsyncSession, key_id: str) -> None:
    """Forget a key; unknown is fine."""
    await session.execute(delete(ApiKey).where(ApiKey.id == key_id))


async def delete_sessions(session: AsyncSession, user_id: UUID) -> list[str]:
    """Forget a user's sessions and keys for web apps; named tokens stay. Returns their ids."""
    theirs = (ApiKey.user_id == user_id, ApiKey.login_type != TOKEN_LOGIN)
    gone = list(await session.scalars(select(ApiKey.id).where(*theirs)))
    await session.execute(delete(ApiKey).where(*theirs))
    return gone


async def delete_app_keys(session: AsyncSession, user_id: UUID) -> list[str]:
    """Forget a user's keys for web apps: he has signed out. Returns their ids. Source: coder coderd/userauth.go."""
    mine = (ApiKey.user_id == user_id, ApiKey.login_type == APP_LOGIN)
    gone = list(await session.scalars(select(ApiKey.id).where(*mine)))
    await session.execute(delete(ApiKey).where(*mine))
    return gone

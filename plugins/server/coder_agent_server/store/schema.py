"""The tables. A change here needs a revision in migrations/versions (test_store.py compares the two)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, MetaData, String, UniqueConstraint, Uuid, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .types import UtcDateTime

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints get names, so that a later migration can alter them."""


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime, UUID: Uuid}  # noqa: RUF012 - SQLAlchemy reads a plain dict


class DeploymentValue(Base):
    """Facts and keys of this deployment that are made once: its id, the resume-token key."""

    __tablename__ = "deployment_values"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


class Organization(Base):
    """A group of users. There is one, `default`, until somebody needs more."""

    __tablename__ = "organizations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    display_name: Mapped[str] = mapped_column(default="")
    is_default: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class User(Base):
    """Somebody who signs in. `username` and `email` are stored in lower case, for both are compared without case."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"))
    username: Mapped[str] = mapped_column(String(32), unique=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(default="")
    password_hash: Mapped[str]
    is_owner: Mapped[bool] = mapped_column(default=False)
    status: Mapped[str] = mapped_column(String(16), default="active")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class ApiKey(Base):
    """A session or a named token. The secret itself is never stored: only its SHA-256 (22 random characters need no
    slow hash)."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index(
            "uq_api_keys_user_token_name",
            "user_id",
            "token_name",
            unique=True,
            sqlite_where=text("token_name != ''"),
        ),
    )

    id: Mapped[str] = mapped_column(String(10), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[bytes]
    login_type: Mapped[str] = mapped_column(String(16))
    scope: Mapped[str] = mapped_column(String(64), default="all")
    token_name: Mapped[str] = mapped_column(String(64), default="")
    lifetime_seconds: Mapped[int]
    last_used: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Workspace(Base):
    """A registered workspace. `build_id` changes whenever its agents get new ids."""

    __tablename__ = "workspaces"
    __table_args__ = (UniqueConstraint("owner_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"))
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(32))
    build_id: Mapped[UUID]
    resource_id: Mapped[UUID]
    job_id: Mapped[UUID]
    path_rules: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_used_at: Mapped[datetime]

    owner: Mapped[User] = relationship(lazy="raise")
    organization: Mapped[Organization] = relationship(lazy="raise")
    agents: Mapped[list[Agent]] = relationship(
        lazy="raise", back_populates="workspace", order_by="Agent.name", cascade="all, delete-orphan"
    )
    shares: Mapped[list[PortShare]] = relationship(
        lazy="raise", order_by="PortShare.agent_name, PortShare.port", cascade="all, delete-orphan"
    )


class Agent(Base):
    """An agent of a workspace: its identity, and what it last reported about itself."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("workspace_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(32))
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    architecture: Mapped[str] = mapped_column(default="amd64")
    operating_system: Mapped[str] = mapped_column(default="linux")
    directory: Mapped[str] = mapped_column(default="")
    expanded_directory: Mapped[str] = mapped_column(default="")
    version: Mapped[str] = mapped_column(default="")
    api_version: Mapped[str] = mapped_column(default="")
    subsystems: Mapped[list[str]] = mapped_column(JSON, default=list)
    lifecycle_state: Mapped[str] = mapped_column(String(24), default="created")
    connection_timeout_seconds: Mapped[int] = mapped_column(default=120)
    logs_size: Mapped[int] = mapped_column(default=0)
    logs_overflowed: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    first_connected_at: Mapped[datetime | None]
    last_connected_at: Mapped[datetime | None]
    disconnected_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ready_at: Mapped[datetime | None]

    workspace: Mapped[Workspace] = relationship(lazy="raise", back_populates="agents")
    apps: Mapped[list[App]] = relationship(
        lazy="raise", back_populates="agent", order_by="App.order, App.slug", cascade="all, delete-orphan"
    )


class AgentLog(Base):
    """One line that a start-up script of an agent wrote."""

    __tablename__ = "agent_logs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    agent_id: Mapped[UUID] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"), index=True)
    source_id: Mapped[UUID]
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    output: Mapped[str]


class App(Base):
    """A web app, a link or a command that an agent's workspace offers. `source`: ``user``, or ``agent`` for what the
    agent's own configuration names; a report of the agent replaces the latter only."""

    __tablename__ = "apps"
    __table_args__ = (UniqueConstraint("agent_id", "slug"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    agent_id: Mapped[UUID] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"), index=True)
    slug: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(8), default="user")
    display_name: Mapped[str] = mapped_column(String(64), default="")
    url: Mapped[str] = mapped_column(default="")
    icon: Mapped[str] = mapped_column(default="")
    command: Mapped[str] = mapped_column(default="")
    external: Mapped[bool] = mapped_column(default=False)
    subdomain: Mapped[bool] = mapped_column(default=False)
    sharing_level: Mapped[str] = mapped_column(String(16), default="owner")
    healthcheck_url: Mapped[str] = mapped_column(default="")
    healthcheck_interval: Mapped[int] = mapped_column(default=0)
    healthcheck_threshold: Mapped[int] = mapped_column(default=0)
    health: Mapped[str] = mapped_column(String(16), default="disabled")
    hidden: Mapped[bool] = mapped_column(default=False)
    order: Mapped[int] = mapped_column("display_order", default=0)
    open_in: Mapped[str] = mapped_column(String(16), default="slim-window")
    cors_behavior: Mapped[str] = mapped_column(String(16), default="simple")
    trusted: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    agent: Mapped[Agent] = relationship(lazy="raise", back_populates="apps")


class PortShare(Base):
    """A port that a workspace's owner has opened to others."""

    __tablename__ = "port_shares"

    workspace_id: Mapped[UUID] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True)
    agent_name: Mapped[str] = mapped_column(String(32), primary_key=True)
    port: Mapped[int] = mapped_column(primary_key=True)
    share_level: Mapped[str] = mapped_column(String(16))
    protocol: Mapped[str] = mapped_column(String(8), default="http")
    trusted: Mapped[bool] = mapped_column(default=False)


class ConnectionLog(Base):
    """One connection to a workspace. It outlives the workspace and its owner: names are kept, not references."""

    __tablename__ = "connection_logs"
    __table_args__ = (Index("ix_connection_logs_workspace_newest", "workspace_id", "connected_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    workspace_owner_id: Mapped[UUID]
    workspace_owner_name: Mapped[str] = mapped_column(String(32))
    workspace_name: Mapped[str] = mapped_column(String(32))
    agent_name: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(24))
    user_id: Mapped[UUID | None]
    username: Mapped[str] = mapped_column(String(32), default="")
    ip: Mapped[str] = mapped_column(String(64), default="")
    user_agent: Mapped[str] = mapped_column(String(256), default="")
    slug_or_port: Mapped[str] = mapped_column(String(64), default="")
    connected_at: Mapped[datetime] = mapped_column(index=True)
    disconnected_at: Mapped[datetime | None]
    status_code: Mapped[int | None]
    reason: Mapped[str] = mapped_column(String(256), default="")
    rx_bytes: Mapped[int | None] = mapped_column(BigInteger)
    tx_bytes: Mapped[int | None] = mapped_column(BigInteger)

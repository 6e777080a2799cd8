"""Apps, shared ports, the connection log; room for longer scopes."""

import sqlalchemy as sa
from alembic import op
from coder_agent_server.store.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. Keys may have scopes with longer names than before."""
    with op.batch_alter_table("api_keys") as keys:
        keys.alter_column("scope", existing_type=sa.String(16), type_=sa.String(64), existing_nullable=False)
    _apps()
    _port_shares()
    _connection_logs()


def _apps() -> None:
    op.create_table(
        "apps",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=8), nullable=False),
        sa.Column("display_name", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("icon", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("external", sa.Boolean(), nullable=False),
        sa.Column("subdomain", sa.Boolean(), nullable=False),
        sa.Column("sharing_level", sa.String(length=16), nullable=False),
        sa.Column("healthcheck_url", sa.String(), nullable=False),
        sa.Column("healthcheck_interval", sa.Integer(), nullable=False),
        sa.Column("healthcheck_threshold", sa.Integer(), nullable=False),
        sa.Column("health", sa.String(length=16), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("display_order", sa.Integer(), nullable=False),
        sa.Column("open_in", sa.String(length=16), nullable=False),
        sa.Column("cors_behavior", sa.String(length=16), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_apps_agent_id_agents", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_apps"),
        sa.UniqueConstraint("agent_id", "slug", name="uq_apps_agent_id"),
    )
    op.create_index("ix_apps_agent_id", "apps", ["agent_id"], unique=False)


def _port_shares() -> None:
    op.create_table(
        "port_shares",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("agent_name", sa.String(length=32), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("share_level", sa.String(length=16), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_port_shares_workspace_id_workspaces", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workspace_id", "agent_name", "port", name="pk_port_shares"),
    )


def _connection_logs() -> None:
    op.create_table(
        "connection_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_owner_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_owner_name", sa.String(length=32), nullable=False),
        sa.Column("workspace_name", sa.String(length=32), nullable=False),
        sa.Column("agent_name", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("username", sa.String(length=32), nullable=False),
        sa.Column("ip", sa.String(length=64), nullable=False),
        sa.Column("user_agent", sa.String(length=256), nullable=False),
        sa.Column("slug_or_port", sa.String(length=64), nullable=False),
        sa.Column("connected_at", UtcDateTime(), nullable=False),
        sa.Column("disconnected_at", UtcDateTime(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_connection_logs"),
    )
    op.create_index("ix_connection_logs_workspace_id", "connection_logs", ["workspace_id"], unique=False)
    op.create_index("ix_connection_logs_connected_at", "connection_logs", ["connected_at"], unique=False)

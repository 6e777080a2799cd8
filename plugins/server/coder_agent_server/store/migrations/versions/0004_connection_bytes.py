"""How much went over a logged connection; and a workspace's newest connections, which its page shows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of what there is nobody knows."""
    for name in ("rx_bytes", "tx_bytes"):
        op.add_column("connection_logs", sa.Column(name, sa.BigInteger(), nullable=True))
    op.drop_index("ix_connection_logs_workspace_id", "connection_logs")
    op.create_index("ix_connection_logs_workspace_newest", "connection_logs", ["workspace_id", "connected_at"])

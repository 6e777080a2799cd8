"""How much went over a logged connection."""

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

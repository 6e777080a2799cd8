"""Path rules of a workspace."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what there is has no rules."""
    op.add_column("workspaces", sa.Column("path_rules", sa.JSON(), server_default="{}", nullable=False))

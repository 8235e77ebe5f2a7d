"""Where a move within a time stands, and what the prices were."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("oddsbot_rules", sa.Column("armed_fall", sa.Boolean))
    op.add_column("oddsbot_seen", sa.Column("history", sa.Text))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("oddsbot_seen", "history")
    op.drop_column("oddsbot_rules", "armed_fall")

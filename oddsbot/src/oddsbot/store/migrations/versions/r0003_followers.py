"""Who is told how a market ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "oddsbot_followers",
        sa.Column(
            "user_id",
            sa.BigInteger,
            sa.ForeignKey("oddsbot_users.user_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("market", sa.String(128), primary_key=True),
    )
    op.create_index("oddsbot_followers_market", "oddsbot_followers", ["market"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("oddsbot_followers")

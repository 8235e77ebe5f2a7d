"""The followers of each tag, and the events that were listed under it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "oddsbot_tag_followers",
        sa.Column(
            "user_id",
            sa.BigInteger,
            sa.ForeignKey("oddsbot_users.user_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("tag", sa.String(64), primary_key=True),
    )
    op.create_index("oddsbot_tag_followers_tag", "oddsbot_tag_followers", ["tag"])
    op.create_table(
        "oddsbot_tags",
        sa.Column("tag", sa.String(64), primary_key=True),
        sa.Column("listing", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("oddsbot_tags")
    op.drop_table("oddsbot_tag_followers")

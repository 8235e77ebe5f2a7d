"""Who follows a shard, and up to which market time it was judged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the column."""
    op.create_table(
        "oddsbot_watchers",
        sa.Column("shard", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("whole_from", sa.BigInteger),
    )
    op.add_column("oddsbot_shards", sa.Column("judged", sa.BigInteger))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("oddsbot_shards", "judged")
    op.drop_table("oddsbot_watchers")

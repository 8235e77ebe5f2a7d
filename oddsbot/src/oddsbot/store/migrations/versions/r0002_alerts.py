"""Where rules stand, what was due, and what became of it."""

from __future__ import annotations

import json
from decimal import Decimal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NOT_ENDED = sa.text("NOT ended AND level IS NOT NULL")
_NO_FATE = sa.text("fate IS NULL")


def upgrade() -> None:
    """Extend the rules, and make the other tables."""
    _extend_rules()
    op.create_table(
        "oddsbot_removed_rules",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.BigInteger, nullable=False),
    )
    revisions = op.create_table(
        "oddsbot_revisions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("newest", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revisions, [{"id": 1, "newest": 1}])
    op.create_table(
        "oddsbot_shards",
        sa.Column("shard", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "oddsbot_seen",
        sa.Column("shard", sa.String(64), primary_key=True),
        sa.Column("asset_id", sa.String(128), primary_key=True),
        sa.Column("at", sa.BigInteger),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("bid", sa.Text),
        sa.Column("ask", sa.Text),
    )
    _make_alerts()
    op.create_table(
        "oddsbot_handled",
        sa.Column("line", sa.String(64), primary_key=True),
        sa.Column("update_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("handled_at", sa.BigInteger, nullable=False),
    )


def _extend_rules() -> None:
    # Nobody can be told of a rule whose person is not there.
    op.execute(
        "DELETE FROM oddsbot_rules "
        "WHERE user_id NOT IN (SELECT user_id FROM oddsbot_users)"
    )
    with op.batch_alter_table("oddsbot_rules") as rules:
        rules.add_column(sa.Column("asset_id", sa.String(128)))
        rules.add_column(sa.Column("side", sa.String(8)))
        rules.add_column(sa.Column("level", sa.BigInteger))
        rules.add_column(
            sa.Column("revision", sa.BigInteger, nullable=False, server_default="1")
        )
        rules.add_column(
            sa.Column("n", sa.BigInteger, nullable=False, server_default="0")
        )
        rules.add_column(sa.Column("armed", sa.Boolean))
        rules.add_column(sa.Column("ref", sa.Text))
        rules.add_column(sa.Column("fired_at", sa.BigInteger))
        rules.add_column(
            sa.Column("ended", sa.Boolean, nullable=False, server_default=sa.false())
        )
        rules.add_column(sa.Column("round", sa.BigInteger))
        rules.create_foreign_key(
            "oddsbot_rules_user_id_fkey",
            "oddsbot_users",
            ["user_id"],
            ["user_id"],
            ondelete="CASCADE",
        )
    _fill_levels()
    op.create_index("oddsbot_rules_id", "oddsbot_rules", ["id"], unique=True)
    op.create_index("oddsbot_rules_revision", "oddsbot_rules", ["revision"])
    op.create_index(
        "oddsbot_rules_level",
        "oddsbot_rules",
        ["user_id", "asset_id", "side", "level"],
        unique=True,
        sqlite_where=_NOT_ENDED,
        postgresql_where=_NOT_ENDED,
    )


def _fill_levels() -> None:
    """Fill the columns of the rules that are there; of two equal ones, one stays."""
    connection = op.get_bind()
    rules = sa.table(
        "oddsbot_rules",
        *(
            sa.column(name)
            for name in ("kind", "id", "user_id", "data", "asset_id", "side", "level")
        ),
    )
    kept, ids = set(), set()
    query = sa.select(rules.c.kind, rules.c.id, rules.c.user_id, rules.c.data)
    for row in connection.execute(query.order_by(rules.c.kind, rules.c.id)).all():
        this = sa.and_(rules.c.kind == row.kind, rules.c.id == row.id)
        data = json.loads(row.data)
        asset, side = data.get("asset_id"), data.get("direction")
        level = int(Decimal(data["level"]) * 1_000_000) if "level" in data else None
        key = (row.user_id, asset, side, level)
        if row.id in ids or (level is not None and key in kept):
            connection.execute(sa.delete(rules).where(this))
            continue
        ids.add(row.id)
        kept.add(key)
        values = {"asset_id": asset, "side": side, "level": level}
        connection.execute(sa.update(rules).where(this).values(**values))


def _make_alerts() -> None:
    op.create_table(
        "oddsbot_alerts",
        sa.Column(
            "user_id",
            sa.BigInteger,
            sa.ForeignKey("oddsbot_users.user_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("rule_id", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("market", sa.String(128), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("shard", sa.String(64), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("home", sa.String(128), nullable=False),
        sa.Column("fate", sa.String(16)),
        sa.Column("reason", sa.String(256)),
        sa.Column("message_id", sa.BigInteger),
        sa.Column("settled_at", sa.BigInteger),
    )
    for name, columns in (
        ("oddsbot_alerts_of_person", ["user_id", "shard", "n", "place"]),
        ("oddsbot_alerts_due", ["shard", "n", "place", "user_id"]),
    ):
        op.create_index(
            name,
            "oddsbot_alerts",
            columns,
            sqlite_where=_NO_FATE,
            postgresql_where=_NO_FATE,
        )
    op.create_index("oddsbot_alerts_due_at", "oddsbot_alerts", ["due_at"])


def downgrade() -> None:
    """Drop what was made; rules lose where they stand."""
    for name in ("handled", "alerts", "seen", "shards", "revisions", "removed_rules"):
        op.drop_table(f"oddsbot_{name}")
    for name in ("level", "revision", "id"):
        op.drop_index(f"oddsbot_rules_{name}", "oddsbot_rules")
    with op.batch_alter_table("oddsbot_rules") as rules:
        rules.drop_constraint("oddsbot_rules_user_id_fkey", type_="foreignkey")
        for name in (
            *("asset_id", "side", "level", "revision", "n", "armed", "ref"),
            *("fired_at", "ended", "round"),
        ):
            rules.drop_column(name)

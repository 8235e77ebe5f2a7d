"""The bot's own tables; whatever else is in the database is not looked at."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

PREFIX = "oddsbot_"
VERSIONS = f"{PREFIX}schema"
"""Where Alembic notes which migrations were made."""

_NOT_ENDED = text("NOT ended AND level IS NOT NULL")
_NO_FATE = text("fate IS NULL")

metadata = MetaData()

users = Table(
    f"{PREFIX}users",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("active", BigInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),
)


def _of_user(*, primary_key: bool = False) -> Column[int]:
    """Return the column of a person; her rows go with her."""
    person = ForeignKey(users.c.user_id, ondelete="CASCADE")
    return Column(
        "user_id", BigInteger, person, primary_key=primary_key, nullable=False
    )


# What a person asked for, and where it stands. `asset_id` (of a volume: the market),
# `side` and `level` (in millionths) repeat what is in `data`: the database refuses the
# same alert twice.
# `revision` grows over all rules with each change of a rule by its person. `round` is
# the shard's round that last wrote the state; empty: no owner has begun to judge it.
rules = Table(
    f"{PREFIX}rules",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("id", String(128), primary_key=True),
    _of_user(),
    Column("schema", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("asset_id", String(128)),
    Column("side", String(8)),
    Column("level", BigInteger),
    Column("revision", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("armed", Boolean),
    Column("armed_fall", Boolean),
    Column("ref", Text),
    Column("fired_at", BigInteger),
    Column("ended", Boolean, nullable=False),
    Column("round", BigInteger),
    Index(f"{PREFIX}rules_user_id", "user_id"),
    Index(f"{PREFIX}rules_id", "id", unique=True),
    Index(f"{PREFIX}rules_revision", "revision"),
    Index(
        f"{PREFIX}rules_level",
        *("user_id", "asset_id", "side", "level"),
        unique=True,
        sqlite_where=_NOT_ENDED,
        postgresql_where=_NOT_ENDED,
    ),
)

# Rules that were taken away, for a day, so that whoever watches them hears of it.
removed_rules = Table(
    f"{PREFIX}removed_rules",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("removed_at", BigInteger, nullable=False),
)

# One row: the newest revision. Whoever changes a rule holds it until the commit, so
# revisions become visible in their order.
revisions = Table(
    f"{PREFIX}revisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("newest", BigInteger, nullable=False),
)

# `epoch` is counted by each owner when it takes the shard over; `n` counts the rounds
# that were committed; `applied` is the newest revision that an owner has judged by;
# `judged` is the market's time, in ms, of the newest tick that an owner has judged.
shards = Table(
    f"{PREFIX}shards",
    metadata,
    Column("shard", String(64), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("judged", BigInteger),
)

# The processes that follow a shard. `beat` changes as long as one lives; `whole_from`
# is the market's time, in ms, from which on it has each tick; empty: it lacks some.
watchers = Table(
    f"{PREFIX}watchers",
    metadata,
    Column("shard", String(64), primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("whole_from", BigInteger),
)

# The last tick of each asset that an owner judged and that changed something. `history`
# is what its prices were up to there, where moves within a time are watched.
seen = Table(
    f"{PREFIX}seen",
    metadata,
    Column("shard", String(64), primary_key=True),
    Column("asset_id", String(128), primary_key=True),
    Column("at", BigInteger),
    Column("ordinal", Integer, nullable=False),
    Column("bid", Text),
    Column("ask", Text),
    Column("history", Text),
)

# What was due, in the order (shard, n, place) for each person, and what became of it.
# A row without a fate is due. `home` names the Redis that it was to be queued in.
alerts = Table(
    f"{PREFIX}alerts",
    metadata,
    _of_user(primary_key=True),
    Column("id", String(256), primary_key=True),
    Column("rule_id", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("market", String(128), nullable=False),
    Column("data", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("shard", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),
    Column("home", String(128), nullable=False),
    Column("fate", String(16)),
    Column("reason", String(256)),
    Column("message_id", BigInteger),
    Column("settled_at", BigInteger),
    Index(
        f"{PREFIX}alerts_of_person",
        *("user_id", "shard", "n", "place"),
        sqlite_where=_NO_FATE,
        postgresql_where=_NO_FATE,
    ),
    Index(
        f"{PREFIX}alerts_due",
        *("shard", "n", "place", "user_id"),
        sqlite_where=_NO_FATE,
        postgresql_where=_NO_FATE,
    ),
    Index(f"{PREFIX}alerts_due_at", "due_at"),
)

# Who is told how which market ended; the person's session names the same markets.
followers = Table(
    f"{PREFIX}followers",
    metadata,
    _of_user(primary_key=True),
    Column("market", String(128), primary_key=True),
    Index(f"{PREFIX}followers_market", "market"),
)

# The people who follow a tag; the session of each names the same tags.
tag_followers = Table(
    f"{PREFIX}tag_followers",
    metadata,
    _of_user(primary_key=True),
    Column("tag", String(64), primary_key=True),
    Index(f"{PREFIX}tag_followers_tag", "tag"),
)

# What was listed under a tag when somebody looked last: a `store.Listing`.
tags = Table(
    f"{PREFIX}tags",
    metadata,
    Column("tag", String(64), primary_key=True),
    Column("listing", Text, nullable=False),
)

# One row: the bot that the people belong to.
tenant = Table(
    f"{PREFIX}tenant",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("bot_id", BigInteger, nullable=False),
)

# Updates that had an effect, for two days: the effect and this row are one commit.
handled = Table(
    f"{PREFIX}handled",
    metadata,
    Column("line", String(64), primary_key=True),
    Column("update_id", BigInteger, primary_key=True, autoincrement=False),
    Column("handled_at", BigInteger, nullable=False),
)

"""The bot's own tables; whatever else is in the database is not looked at."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

PREFIX = "oddsbot_"
VERSIONS = f"{PREFIX}schema"
"""Where Alembic notes which migrations were made."""

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

rules = Table(
    f"{PREFIX}rules",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("schema", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index(f"{PREFIX}rules_user_id", "user_id"),
)

"""Many rows in one statement: the rows are one JSON parameter, on either database.

One statement for any number of rows: no limit of parameters, one plan, one trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Text, bindparam, cast, column, func, select
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import FromClause, Table
    from sqlalchemy.types import TypeEngine

ROWS = "rows"
"""The name of the parameter."""


def recordset(dialect: str, name: str, **columns: type[TypeEngine[Any]]) -> FromClause:
    """Return rows, given as the parameter ``rows``, as something to select from.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
        name: What it is called in the statement.
        **columns: The type of each column.
    """
    rows = bindparam(ROWS, type_=Text)
    if dialect == "postgresql":
        typed = [column(each, type_) for each, type_ in columns.items()]
        parsed = func.jsonb_to_recordset(cast(rows, postgresql.JSONB))
        return parsed.table_valued(*typed, name=name).render_derived(with_types=True)
    each = func.json_each(rows).table_valued("value")
    fields = [
        func.json_extract(each.c.value, f"$.{key}", type_=type_).label(key)
        for key, type_ in columns.items()
    ]
    return select(*fields).subquery(name)


def as_rows(rows: Sequence[object]) -> dict[str, str]:
    """Return the parameter for rows: structs or dicts with the columns' names."""
    return {ROWS: msgspec.json.encode(rows).decode()}


def insert_into(dialect: str, table: Table) -> Any:
    """Return an insert that knows ``ON CONFLICT``."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)

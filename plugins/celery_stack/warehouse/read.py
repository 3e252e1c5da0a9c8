"""Rows out of the warehouse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pandas import DataFrame  # noqa: TID253  # imported when rows are read, not by DAGs

if TYPE_CHECKING:
    from psycopg import Connection


def fetch(
    connection: Connection[Any], query: str, parameters: Mapping[str, Any] | None
) -> DataFrame:
    """Give what `query` selects; a column of no rows has no type."""
    cursor = connection.execute(query.encode(), parameters)
    names = [column.name for column in cursor.description or ()]
    return DataFrame(cursor.fetchall(), columns=names)

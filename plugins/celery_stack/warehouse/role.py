"""The limit that the database itself holds: connections of the role `warehouse`."""

from __future__ import annotations

from typing import Any, Protocol

from celery_stack.queues import Declarations
from celery_stack.warehouse.fence import POOL

ROLE = "warehouse"
MARGIN = 2
"""Connections beyond the pool's slots: the migrations, and one whose end the server has yet to see."""


class Cursor(Protocol):
    """A cursor of psycopg or psycopg2."""

    def execute(self, query: Any, /) -> object: ...


def connection_limit(declared: Declarations) -> int:
    """Give the connections that the role may hold at once: `PG_IO_SLOTS` and a margin.

    Where the pool is not declared nobody writes: the margin alone.
    """
    pool = declared.pools.get(POOL)
    return (pool.slots if pool else 0) + MARGIN


def limit_connections(cursor: Cursor, limit: int) -> None:
    """Set the role's `CONNECTION LIMIT`; takes a superuser's cursor, the role must exist.

    Connections that are open already stay; a superuser is not bound by it.
    """
    cursor.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {limit:d}")

"""Rows into the warehouse and out of it: the one way, for every DAG.

    from celery_stack.warehouse import write_rows

    write_rows(table, "observations", keys=["observation_id"])

Inside a task of pool `pg_io`: COPY into a temporary table, then one `INSERT … ON CONFLICT`, in one
transaction that a newer try of the same task fences off. Killed anywhere and retried, a task leaves
the same rows. Light to import; the work's modules are imported when rows are written.
`read_rows` wants the pool as well: what reads holds a connection too.

| module | holds |
|---|---|
| `errors` | what can go wrong, in which words |
| `fence` | who writes: task, run and try; the pool; the fence in the database |
| `rows` | DataFrames and records, cut into chunks of columns |
| `kinds` | the types, and what each refuses |
| `binary` | chunks in Postgres' binary COPY format |
| `load` | the transaction |
| `read` | what a query selects |
| `role` | the connection limit of the database role |
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from celery_stack import metrics
from celery_stack.warehouse.errors import (
    BadRowError,
    PoolError,
    StaleTryError,
    TargetError,
    WarehouseError,
)
from celery_stack.warehouse.fence import CONNECTION, current_writer

if TYPE_CHECKING:
    from pandas import DataFrame
    from psycopg import Connection

    from celery_stack.warehouse.load import OnConflict, Written
    from celery_stack.warehouse.rows import Record

__all__ = [
    "BadRowError",
    "PoolError",
    "StaleTryError",
    "TargetError",
    "WarehouseError",
    "read_rows",
    "write_rows",
]

CHUNK_ROWS = 10_000


def write_rows(
    rows: DataFrame | Iterable[Record],
    table: str,
    *,
    keys: Sequence[str],
    columns: Sequence[str] | None = None,
    on_conflict: OnConflict = "update",
    chunk_rows: int = CHUNK_ROWS,
) -> Written:
    """Store all rows in `table`, or none; give how many there were and how many changed the table.

    A row whose keys the table holds replaces the columns given (`on_conflict="update"`) or is left
    out (`"nothing"`). The same keys twice in `rows` are an error: which of them is right is for the
    caller to say. NULL is None, NA or NaT, and NaN too, except in a floating-point column, where
    NaN stays NaN. Times need a zone; what is finer than a microsecond is cut off.

    Args:
        rows: a DataFrame (its index is left out), or an iterable of mappings or of tuples. An
            iterable is read once, `chunk_rows` at a time: memory does not grow with its length.
        table: as in the migrations, with or without its schema.
        keys: the columns of the table's primary key or of a unique constraint.
        columns: names of the tuples' fields, in order; for the rest, the columns to take.
        chunk_rows: rows held in memory at once, at least 1.

    Raises:
        PoolError: the task is not in pool `pg_io`, or this is no task.
        TargetError: the table, its columns or the keys do not fit the call.
        BadRowError: names the first bad row, counted from 1, and the column.
        StaleTryError: a newer try of this task has begun.
    """
    from celery_stack.warehouse.load import Target, store

    writer = current_writer()
    target = Target(table, tuple(keys), on_conflict)
    connection = _connect()
    began = time.monotonic()
    try:
        written = store(connection, writer, rows, target, columns=columns, chunk_rows=chunk_rows)
    finally:
        connection.close()
    metrics.count("warehouse.rows", written.rows, table=table)
    metrics.timing("warehouse.write", time.monotonic() - began, table=table)
    return written


def read_rows(query: str, parameters: Mapping[str, Any] | None = None) -> DataFrame:
    """Give the rows that `query` selects, with the query's column names.

    Args:
        query: SQL; values go into `parameters` and appear as `%(name)s`.

    Raises:
        PoolError: the task is not in pool `pg_io`, or this is no task.
    """
    from celery_stack.warehouse.read import fetch

    current_writer()
    connection = _connect()
    try:
        return fetch(connection, query, parameters)
    finally:
        connection.close()


def _connect() -> Connection[Any]:
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    # The hook takes psycopg 3 where both drivers are installed; the lock file holds it to that.
    return cast("Connection[Any]", PostgresHook(CONNECTION).get_conn())

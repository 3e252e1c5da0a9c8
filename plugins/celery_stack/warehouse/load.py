"""The transaction: stage, fence, upsert."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psycopg
from psycopg import sql

from celery_stack.warehouse.binary import (
    HEADER,
    TRAILER,
    Column,
    encode,
    in_copy_order,
)
from celery_stack.warehouse.errors import BadRowError, TargetError, WarehouseError, show
from celery_stack.warehouse.fence import Writer, claim, hold
from celery_stack.warehouse.kinds import KINDS
from celery_stack.warehouse.rows import Chunk, Record, read_chunks

if TYPE_CHECKING:
    from pandas import DataFrame
    from psycopg import Connection

OnConflict: TypeAlias = Literal["update", "nothing"]

STAGE = sql.Identifier("pg_temp", "incoming")
# Idle: waiting for the client between two statements; a client that vanished unnoticed holds locks.
IDLE_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = '60s'"
TABLE_COLUMNS = """
SELECT attname, typname, attnotnull, attgenerated <> ''
FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""
# "COPY incoming, line 17, column …": the binary format has a line per row.
LINE = re.compile(r"^COPY \w+, line (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """Where rows go: `keys` are the columns of a unique constraint of `table`."""

    table: str
    keys: tuple[str, ...]
    on_conflict: OnConflict = "update"

    @property
    def name(self) -> sql.Identifier:
        return sql.Identifier(*self.table.split("."))


@dataclass(frozen=True)
class Written:
    """What a write did: `rows` were given, `changed` of them changed the table."""

    rows: int
    changed: int


def store(
    connection: Connection[Any],
    writer: Writer,
    rows: DataFrame | Iterable[Record],
    target: Target,
    *,
    columns: Sequence[str] | None,
    chunk_rows: int,
) -> Written:
    """Store all rows or none, unless a newer try of the writer's task has begun.

    Args:
        connection: to the warehouse, outside of any transaction; stays open.

    Raises:
        TargetError, BadRowError, StaleTryError: see `celery_stack.warehouse.write_rows`.
    """
    names, chunks = read_chunks(rows, columns, chunk_rows)
    claim(connection, writer)
    with connection.transaction():
        connection.execute(IDLE_TIMEOUT)
        found = in_copy_order(_match(connection, target, names))
        _make_stage(connection, target, found)
        given = _copy(connection, found, chunks)
        hold(connection, writer)
        return Written(given, _upsert(connection, target, names))


def _match(connection: Connection[Any], target: Target, names: Sequence[str]) -> list[Column]:
    """Give the table's columns by the names given."""
    types = {
        row[0]: row[1:] for row in connection.execute(TABLE_COLUMNS, [target.name.as_string()])
    }
    if not types:
        raise TargetError(f"Table {target.table!r} is not in the warehouse. Migrate it first.")
    unknown = [name for name in names if name not in types or types[name][2]]
    if unknown:
        raise TargetError(
            f"Table {target.table!r} takes the columns {show(list(types))}, "
            f"got {show(unknown)}. Leave them out, or migrate the table."
        )
    if not target.keys or not set(target.keys) <= set(names):
        raise TargetError(f"keys must be columns given, got {show(target.keys)}. Give them.")
    return [_column(target, name, *types[name][:2]) for name in names]


def _column(target: Target, name: str, type_name: str, not_null: bool) -> Column:
    kind = KINDS.get(type_name)
    if kind is None:
        raise TargetError(
            f"Table {target.table!r}, column {name!r}: expected one of the types "
            f"{', '.join(KINDS)}, found {type_name!r}. Migrate the column."
        )
    return Column(name, kind, required=not_null or name in target.keys)


def _make_stage(connection: Connection[Any], target: Target, columns: Sequence[Column]) -> None:
    """Make a temporary table with the columns given, and with the constraints on them.

    COPY then says which row breaks one; so it does for keys given twice.
    """
    make = "CREATE TEMPORARY TABLE incoming (LIKE {} INCLUDING CONSTRAINTS) ON COMMIT DROP"
    connection.execute(sql.SQL(make).format(target.name))
    given = [column.name for column in columns]
    others = connection.execute(TABLE_COLUMNS, ["pg_temp.incoming"]).fetchall()
    drops = [
        sql.SQL("DROP COLUMN {} CASCADE").format(sql.Identifier(name))
        for name, *_ in others
        if name not in given
    ]
    if drops:
        change = sql.SQL("ALTER TABLE {} ").format(STAGE) + sql.SQL(", ").join(drops)
        connection.execute(change)
    index = sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(STAGE, _list(target.keys))
    connection.execute(index)


def _copy(connection: Connection[Any], columns: Sequence[Column], chunks: Iterator[Chunk]) -> int:
    """Copy the chunks into the stage; give the number of rows."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)")
    names = [column.name for column in columns]
    rows = 0
    with (
        _refusals(),
        connection.cursor() as cursor,
        cursor.copy(statement.format(STAGE, _list(names))) as copy,
    ):
        copy.write(HEADER)
        for chunk in chunks:
            copy.write(encode(chunk, columns))
            rows += chunk.size
        copy.write(TRAILER)
    return rows


def _upsert(connection: Connection[Any], target: Target, names: Sequence[str]) -> int:
    """Move the stage into the table; give how many rows that inserted or changed."""
    statement = sql.SQL("INSERT INTO {} AS stored ({}) SELECT {} FROM {} ON CONFLICT ({}) DO ")
    columns = _list(names)
    filled = statement.format(target.name, columns, columns, STAGE, _list(target.keys))
    with _refusals(target):
        return connection.execute(filled + _resolution(target, names)).rowcount


def _resolution(target: Target, names: Sequence[str]) -> sql.Composable:
    """Give what to do with keys that are there; rows that say the same are left alone."""
    others = [name for name in names if name not in target.keys]
    if target.on_conflict == "nothing" or not others:
        return sql.SQL("NOTHING")
    new, old = _list(others, "excluded"), _list(others, "stored")
    update = "UPDATE SET ({}) = ROW ({}) WHERE ROW ({}) IS DISTINCT FROM ROW ({})"
    return sql.SQL(update).format(_list(others), new, old, new)


def _list(names: Iterable[str], table: str | None = None) -> sql.Composed:
    prefix = () if table is None else (table,)
    return sql.SQL(", ").join(sql.Identifier(*prefix, name) for name in names)


@contextmanager
def _refusals(target: Target | None = None) -> Iterator[None]:
    """Turn what the database says about the data into errors for the caller."""
    try:
        yield
    except psycopg.errors.InvalidColumnReference:
        keys = show(target.keys if target else ())
        raise TargetError(
            f"keys must be a primary key or unique constraint of the table, got {keys}. "
            "Name another, or migrate the table."
        ) from None
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _refusal(error) from None


def _refusal(error: psycopg.Error) -> WarehouseError:
    problem = error.diag.message_primary or str(error)
    if error.diag.message_detail and isinstance(error, psycopg.errors.UniqueViolation):
        problem = f"the same keys twice: {show(error.diag.message_detail)}"
    line = LINE.search(error.diag.context or "")
    if line:
        return BadRowError(int(line.group(1)), error.diag.column_name, problem)
    return WarehouseError(f"The warehouse refused the rows: {problem}. Nothing was written.")

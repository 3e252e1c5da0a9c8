"""Columns of Python or pandas values as Postgres' binary COPY format, checked value by value.

Numbers, booleans, times and dates have a fixed width: numpy lays out the rows of a whole chunk at
once. Text, bytes and JSON follow them in each row, whatever the caller's order.

Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np  # noqa: TID253  # imported when rows are written, not by DAGs
import pandas as pd  # noqa: TID253
from numpy.typing import NDArray  # noqa: TID253

from celery_stack.warehouse.errors import BadRowError, show
from celery_stack.warehouse.kinds import Array, Fixed, Kind, Mask, Varying
from celery_stack.warehouse.rows import Chunk, Values

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_PLAIN = {frozenset({int}): "i8", frozenset({float}): "f8", frozenset({bool}): "?"}
_NULL_LENGTH = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class Column:
    """A column of the table; `required` where it takes no NULL."""

    name: str
    kind: Kind
    required: bool


def in_copy_order(columns: Sequence[Column]) -> list[Column]:
    """Give the columns in the order in which `encode` writes them: fixed widths first."""
    return sorted(columns, key=lambda column: isinstance(column.kind, Varying))


def encode(chunk: Chunk, columns: Sequence[Column]) -> bytes:
    """Give the chunk's rows in COPY's binary format, without header and trailer.

    Args:
        columns: in copy order.

    Raises:
        BadRowError: the first value, column by column, that its column cannot hold.
    """
    fixed = [column for column in columns if isinstance(column.kind, Fixed)]
    rows, keep = _lay_out(chunk, fixed, fields=len(columns))
    if len(fixed) == len(columns):
        return bytes((rows if keep is None else rows[keep]).data)
    varying = [_varying_fields(chunk, column) for column in columns[len(fixed) :]]
    parts = zip(_split(rows, keep), *varying, strict=True)
    return b"".join(part for row in parts for part in row)


def _lay_out(
    chunk: Chunk, columns: Sequence[Column], *, fields: int
) -> tuple[NDArray[np.uint8], Mask | None]:
    """Give the fixed fields as (rows, bytes), and which bytes to keep: a NULL has no content."""
    decoded = [_fixed_values(chunk, column) for column in columns]
    row = fields.to_bytes(2, "big")
    for values, _ in decoded:
        row += values.dtype.itemsize.to_bytes(4, "big") + bytes(values.dtype.itemsize)
    rows = np.tile(np.frombuffer(row, np.uint8), (chunk.size, 1))
    keep = np.ones(rows.shape, np.bool_) if any(null.any() for _, null in decoded) else None
    start = 2
    for values, null in decoded:
        size = values.dtype.itemsize
        rows[:, start + 4 : start + 4 + size] = values.view(np.uint8).reshape(-1, size)
        if keep is not None and null.any():
            rows[null, start : start + 4] = list(_NULL_LENGTH)
            keep[null, start + 4 : start + 4 + size] = False
        start += 4 + size
    return rows, keep


def _split(rows: NDArray[np.uint8], keep: Mask | None) -> Iterator[bytes]:
    if keep is None:
        return (row.tobytes() for row in rows)
    return (row[kept].tobytes() for row, kept in zip(rows, keep, strict=True))


def _fixed_values(chunk: Chunk, column: Column) -> tuple[Array, Mask]:
    """Give a column's values in the server's byte order, and the mask of NULLs."""
    kind, values = column.kind, _as_numbers(chunk.values[column.name])
    assert isinstance(kind, Fixed)  # noqa: S101  # for the type checker
    null = _null_mask(values, nan_is_null=kind.nan_is_null)
    _refuse_null(chunk, column, null)
    taken = kind.take(values) if isinstance(values, pd.Series) else None
    if taken is None:
        return _converted(chunk, column, kind, null), null
    array, wrong = taken
    wrong &= ~null
    if wrong.any():
        raise _bad_value(chunk, column, int(wrong.argmax()))
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array.astype(kind.dtype)), null


def _as_numbers(values: Values) -> Values:
    """Give records' values as a numeric column where all of them have one plain type."""
    if isinstance(values, pd.Series):
        return values
    dtype = _PLAIN.get(frozenset(map(type, values)))
    if dtype is None:
        return values
    try:
        return pd.Series(np.array(values, dtype))
    except OverflowError:
        return values


def _converted(chunk: Chunk, column: Column, kind: Fixed, null: Mask) -> Array:
    found = [0 if missing else value for value, missing in _convert_all(chunk, column, kind, null)]
    return np.array(found, dtype=kind.dtype)


def _varying_fields(chunk: Chunk, column: Column) -> list[bytes]:
    """Give each field with its length in front."""
    kind, values = column.kind, chunk.values[column.name]
    null = _null_mask(values, nan_is_null=True)
    _refuse_null(chunk, column, null)
    return [
        _NULL_LENGTH if missing else len(content).to_bytes(4, "big") + content
        for content, missing in _convert_all(chunk, column, kind, null)
    ]


def _convert_all(
    chunk: Chunk, column: Column, kind: Kind, null: Mask
) -> Iterator[tuple[Any, bool]]:
    values, convert = chunk.values[column.name], kind.convert
    for i, (value, missing) in enumerate(zip(values, null.tolist(), strict=True)):
        if missing:
            yield None, True
            continue
        try:
            yield convert(value), False
        except (ValueError, TypeError, OverflowError):
            raise _bad_value(chunk, column, i) from None


def _null_mask(values: Values, *, nan_is_null: bool) -> Mask:
    if isinstance(values, pd.Series):
        if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iub":
            return np.zeros(len(values), np.bool_)
        if isinstance(values.dtype, np.dtype) and values.dtype.kind == "f":
            return values.isna().to_numpy() if nan_is_null else np.zeros(len(values), np.bool_)
        if values.dtype != object:
            return values.isna().to_numpy(dtype=np.bool_)
    if not any(_may_be_missing(kind) for kind in set(map(type, values))):
        return np.zeros(len(values), np.bool_)
    missing = (_is_missing(value, nan_is_null=nan_is_null) for value in values)
    return np.fromiter(missing, np.bool_, len(values))


def _may_be_missing(kind: type) -> bool:
    return issubclass(kind, float | np.floating | type(None) | type(pd.NA) | type(pd.NaT))


def _is_missing(value: object, *, nan_is_null: bool) -> bool:
    if isinstance(value, float | np.floating):
        return nan_is_null and bool(np.isnan(value))
    return value is None or value is pd.NA or value is pd.NaT


def _refuse_null(chunk: Chunk, column: Column, null: Mask) -> None:
    if column.required and null.any():
        raise _bad_value(chunk, column, int(null.argmax()))


def _bad_value(chunk: Chunk, column: Column, index: int) -> BadRowError:
    values = chunk.values[column.name]
    value = values.iloc[index] if isinstance(values, pd.Series) else values[index]
    shown = show(value.item() if isinstance(value, np.generic) else value)
    problem = f"expected {column.kind.expected}, got {shown}"
    return BadRowError(chunk.first + index, column.name, problem)

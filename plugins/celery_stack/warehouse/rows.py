"""DataFrames and records, cut into chunks of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeAlias

from pandas import DataFrame, Series  # noqa: TID253  # imported when rows are written, not by DAGs

from celery_stack.warehouse.errors import BadRowError, TargetError, show

Record: TypeAlias = Mapping[str, Any] | Sequence[Any]
Values: TypeAlias = "Sequence[Any] | Series[Any]"


@dataclass(frozen=True)
class Chunk:
    """Some rows by column; `first` is the number of the first one, the caller's first is 1."""

    first: int
    size: int
    values: Mapping[str, Values]


def read_chunks(
    rows: DataFrame | Iterable[Record], columns: Sequence[str] | None, chunk_rows: int
) -> tuple[list[str], Iterator[Chunk]]:
    """Give the columns' names and the chunks, each of `chunk_rows` rows but the last.

    Raises:
        TargetError: tuples without `columns`, no rows to learn the columns from, a name twice.
        BadRowError: from the iterator, for a record whose fields are not the columns.
    """
    if chunk_rows < 1:
        raise TargetError(f"chunk_rows must be at least 1, got {chunk_rows}. Leave it out.")
    if isinstance(rows, DataFrame):
        names = _distinct([*rows.columns] if columns is None else columns)
        return names, _cut_frame(rows, names, chunk_rows)
    records = iter(rows)
    first = list(islice(records, 1))
    names = _distinct(_names_of(first) if columns is None else columns)
    return names, _cut_records(chain(first, records), names, chunk_rows)


def _distinct(columns: Iterable[Any]) -> list[str]:
    names = list(columns)
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise TargetError(f"columns must be different names, got {show(names)}. Rename them.")
    return names


def _names_of(first: list[Record]) -> list[str]:
    if first and isinstance(first[0], Mapping):
        return list(first[0])
    found = "tuples" if first else "no row"
    raise TargetError(f"columns must name the fields, found {found} to learn them from. Name them.")


def _cut_frame(frame: DataFrame, names: list[str], chunk_rows: int) -> Iterator[Chunk]:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise TargetError(f"The DataFrame must have the columns {show(missing)}. Add them.")
    series = {name: frame[name] for name in names}
    for start in range(0, len(frame), chunk_rows):
        stop = min(start + chunk_rows, len(frame))
        values = {name: column.iloc[start:stop] for name, column in series.items()}
        yield Chunk(start + 1, stop - start, values)


def _cut_records(records: Iterator[Record], names: list[str], chunk_rows: int) -> Iterator[Chunk]:
    first = 1
    while batch := list(islice(records, chunk_rows)):
        tuples = [_fields(record, names, first + i) for i, record in enumerate(batch)]
        columns = zip(*tuples, strict=True)
        yield Chunk(first, len(batch), dict(zip(names, columns, strict=True)))
        first += len(batch)


def _fields(record: Record, names: list[str], row: int) -> Sequence[Any]:
    if len(record) == len(names):
        if not isinstance(record, Mapping):
            return record
        try:
            return [record[name] for name in names]
        except KeyError:
            pass
    found: object = f"{len(record)} fields"
    if isinstance(record, Mapping):
        missing = [name for name in names if name not in record]
        extra = [name for name in record if name not in names]
        found = f"missing {show(missing)}, unknown {show(extra)}"
    raise BadRowError(row, None, f"expected the {len(names)} fields {show(names)}, found {found}")

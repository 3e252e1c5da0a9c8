"""Whatever Python or pandas holds comes back from Postgres as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_stack.warehouse.load import Target, store
from tests.warehouse.embedded import writer

NAMES = ("small", "medium", "large", "narrow", "wide", "flag", "at", "day", "words", "raw", "doc")
TYPES = ("int2", "int4", "int8", "float4", "float8", "bool", "timestamptz", "date", "text")
TYPES += ("bytea", "jsonb")

AWKWARD = st.sampled_from(
    ["", "\t", "\n", "\r\n", "\\", "\\N", "\\.", "'", '"', '""', "NULL", "é", "😀", "x" * 3000]
)
TEXTS = AWKWARD | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)
FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])
# jsonb keeps numbers exactly, which Python's floats are not; whole ones are enough here.
JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    FLOATS,
    st.booleans(),
    TIMES,
    st.dates(),
    TEXTS,
    st.binary(),
    JSON,
)
ROWS = st.lists(st.tuples(*(st.none() | field for field in FIELDS)), max_size=12)
DATABASE = settings(
    max_examples=40,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def connection(warehouse_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection to a warehouse with a table of every type, and with text keys."""
    fields = ", ".join(f"{name} {kind}" for name, kind in zip(NAMES, TYPES, strict=True))
    with psycopg.connect(warehouse_url) as opened:
        opened.execute(f"CREATE TABLE anything (id int8 PRIMARY KEY, {fields})")
        opened.commit()
        yield opened
        opened.rollback()
        opened.execute("DROP TABLE anything")


def round_trip(
    connection: psycopg.Connection[Any], rows: Any, names: tuple[str, ...]
) -> list[tuple[Any, ...]]:
    """Write into the emptied table and read back, times as UTC."""
    with connection.transaction():
        connection.execute("TRUNCATE anything")
    target = Target("anything", ("id",))
    columns = ("id", *names)
    written = store(connection, writer(), rows, target, columns=columns, chunk_rows=5)
    connection.execute("SET LOCAL timezone = 'UTC'")
    # float4 as text has the fewest digits that tell it from its neighbours; Python has but float8.
    fields = (f"{name}::float8" if name == "narrow" else name for name in names)
    query = f"SELECT {', '.join(fields)} FROM anything ORDER BY id"  # noqa: S608  # names above
    found = connection.execute(query).fetchall()
    connection.rollback()
    assert written.rows == written.changed == len(found)
    return found


def same(found: object, given: object) -> bool:
    """Compare as values; NaN is NaN, the zero's sign counts, True is not 1."""
    if isinstance(given, float) and isinstance(found, float):
        return (
            math.isnan(found)
            if math.isnan(given)
            else math.copysign(1, found) == math.copysign(1, given) and found == given
        )
    return type(found) is type(given) and found == given


def assert_same(found: list[tuple[Any, ...]], given: list[tuple[Any, ...]]) -> None:
    assert len(found) == len(given)
    for got, expected in zip(found, given, strict=True):
        assert all(map(same, got, expected)), (got, expected)


@DATABASE
@given(rows=ROWS)
def test_records_come_back_as_they_were(
    connection: psycopg.Connection[Any], rows: list[tuple[Any, ...]]
):
    """Every type, NULL among them, in every order of chunks."""
    found = round_trip(connection, ((i, *row) for i, row in enumerate(rows)), NAMES)
    assert_same(found, rows)


@DATABASE
@given(rows=ROWS)
def test_object_columns_come_back_as_they_were(
    connection: psycopg.Connection[Any], rows: list[tuple[Any, ...]]
):
    """A DataFrame of Python objects is like its records."""
    frame = pd.DataFrame(rows, columns=list(NAMES), dtype=object)
    frame["id"] = range(len(rows))
    assert_same(round_trip(connection, frame, NAMES), rows)


@DATABASE
@given(data=st.data(), size=st.integers(0, 12), dtype=st.sampled_from(["Int", "int"]))
def test_typed_columns_come_back_as_they_were(
    connection: psycopg.Connection[Any], data: st.DataObject, size: int, dtype: str
):
    """pandas' own types: nullable where the name has a capital, NaN is NULL but in numpy's floats."""

    def draw(field: st.SearchStrategy[Any]) -> list[Any]:
        field = st.none() | field if dtype == "Int" else field
        return data.draw(st.lists(field, min_size=size, max_size=size))

    names = ("large", "medium", "flag", "words", "wide")
    columns = {
        "large": pd.Series(draw(FIELDS[2]), dtype=f"{dtype}64"),
        "medium": pd.Series(draw(FIELDS[1]), dtype=f"{dtype}32"),
        "flag": pd.Series(draw(st.booleans()), dtype="boolean" if dtype == "Int" else "bool"),
        "words": pd.Series(draw(TEXTS), dtype="str"),
        "wide": pd.Series(data.draw(st.lists(FLOATS, min_size=size, max_size=size)), dtype=float),
    }
    frame = pd.DataFrame({"id": np.arange(size)} | columns)
    given = [
        tuple(None if value is pd.NA else value for value in row)
        for row in zip(*(series.astype(object) for series in columns.values()), strict=True)
    ]
    given = [(*row[:3], None if row[3] != row[3] else row[3], row[4]) for row in given]
    assert_same(round_trip(connection, frame, names), given)


@DATABASE
@given(times=st.lists(st.none() | TIMES, max_size=12), unit=st.sampled_from(["us", "ms", "s"]))
def test_time_columns_come_back_as_they_were(
    connection: psycopg.Connection[Any], times: list[datetime | None], unit: str
):
    """Any unit and zone; NaT is NULL."""
    utc = pd.Series(pd.to_datetime(times, utc=True), dtype="datetime64[us, UTC]")
    column = utc.dt.tz_convert("Asia/Kathmandu").dt.as_unit(unit)
    frame = pd.DataFrame({"id": range(len(times)), "at": column})
    found = round_trip(connection, frame, ("at",))
    given = [
        None if at is pd.NaT else at.to_pydatetime() for at in column.dt.tz_convert(UTC).tolist()
    ]
    assert [row[0] for row in found] == given


@DATABASE
@given(numbers=st.lists(st.none() | st.integers(-(2**53), 2**53), max_size=12))
def test_whole_floats_with_nan_are_integers_with_null(
    connection: psycopg.Connection[Any], numbers: list[int | None]
):
    """What pandas makes of integers with gaps."""
    frame = pd.DataFrame({"large": pd.Series(numbers, dtype=float)})
    frame["id"] = range(len(numbers))
    assert_same(round_trip(connection, frame, ("large",)), [(number,) for number in numbers])


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "Int64", "category", "object"])
def test_integers_of_every_backend_are_taken(connection: psycopg.Connection[Any], dtype: str):
    """Arrow's, pandas' own, categories, objects."""
    series = pd.Series([1, None, 2**53 + 1], dtype="object" if dtype == "category" else dtype)
    frame = pd.DataFrame({"id": range(3), "large": series.astype(dtype)})
    assert round_trip(connection, frame, ("large",)) == [(1,), (None,), (2**53 + 1,)]


def test_dates_and_numpy_scalars_are_taken(connection: psycopg.Connection[Any]):
    """Records that were cut out of arrays."""
    row = (0, np.int64(7), np.float32(0.5), np.bool_(True), pd.Timestamp("2026-01-01", tz=UTC))
    found = round_trip(connection, [row], ("small", "wide", "flag", "at"))
    assert found == [(7, 0.5, True, datetime(2026, 1, 1, tzinfo=UTC))]
    found = round_trip(connection, [(0, date(1, 1, 1)), (1, date(9999, 12, 31))], ("day",))
    assert found == [(date(1, 1, 1),), (date(9999, 12, 31),)]


def test_very_long_text_is_taken(connection: psycopg.Connection[Any]):
    """50 million characters."""
    text = "0123456789" * 5_000_000
    assert round_trip(connection, [(0, text)], ("words",)) == [(text,)]

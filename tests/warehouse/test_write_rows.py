"""What a write leaves in a real Postgres, and what it refuses, in which words."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg import Connection

from celery_stack.warehouse import BadRowError, StaleTryError, TargetError, WarehouseError
from celery_stack.warehouse.load import Target, Written, store
from ml.schema import COLUMNS, FEATURES
from tests.warehouse.embedded import RUN_STARTED, writer

SCORES = ("observation_id", "model_version", "score")


def write(
    connection: Connection[Any], rows: Any, table: str, *keys: str, **options: Any
) -> Written:
    options = {"columns": None, "chunk_rows": 3} | options
    who = options.pop("by", writer())
    target = Target(table, keys, options.pop("on_conflict", "update"))
    return store(connection, who, rows, target, **options)


def write_scores(connection: Connection[Any], rows: Any, **options: Any) -> Written:
    keys = ("observation_id", "model_version")
    return write(connection, rows, "predictions", *keys, **{"columns": SCORES, **options})


def scores(connection: Connection[Any]) -> list[tuple[int, str, float]]:
    found = connection.execute(
        "SELECT observation_id, model_version, score FROM predictions ORDER BY 1, 2"
    ).fetchall()
    connection.rollback()
    return found


@pytest.fixture
def samples(warehouse: Connection[Any]) -> Iterator[Connection[Any]]:
    """Give a connection to a warehouse with a table of every type."""
    warehouse.execute(
        "CREATE TABLE samples (id int8 PRIMARY KEY, small int2, medium int4, narrow float4, wide float8,"
        " flag bool, at timestamptz, day date, words text, short varchar(5), raw bytea, doc jsonb,"
        " other numeric, twice int8 GENERATED ALWAYS AS (id * 2) STORED)"
    )
    warehouse.commit()
    yield warehouse
    warehouse.rollback()
    warehouse.execute("DROP TABLE samples")
    warehouse.commit()


def observations(count: int) -> pd.DataFrame:
    numbers = np.random.default_rng(3).lognormal(size=(count, len(FEATURES)))
    table = pd.DataFrame(numbers, columns=list(FEATURES))
    table["observation_id"], table["target"] = np.arange(count), np.arange(count) % 2
    return table[list(COLUMNS)]


def test_table_of_the_pipeline_is_stored_as_it_is(warehouse: Connection[Any]):
    """A DataFrame with the pipeline's columns needs no renaming and comes back equal."""
    table = observations(100)
    assert write(warehouse, table, "observations", "observation_id") == Written(100, 100)
    names = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, COLUMNS))
    query = psycopg.sql.SQL("SELECT {} FROM observations ORDER BY observation_id").format(names)
    stored = pd.DataFrame(warehouse.execute(query).fetchall(), columns=list(COLUMNS))
    pd.testing.assert_frame_equal(stored, table, check_exact=True)


def test_same_rows_again_change_nothing(warehouse: Connection[Any]):
    """A retry after the commit rewrites no row."""
    table = observations(10)
    write(warehouse, table, "observations", "observation_id")
    again = write(warehouse, table, "observations", "observation_id", by=writer(2))
    assert again == Written(10, 0)


def test_known_keys_are_updated_and_new_ones_added(warehouse: Connection[Any]):
    """Only the columns given change."""
    write_scores(warehouse, [(1, "v1", 0.1), (2, "v1", 0.2)])
    assert write_scores(warehouse, [(2, "v1", 0.9), (3, "v1", 0.3)]) == Written(2, 2)
    assert scores(warehouse) == [(1, "v1", 0.1), (2, "v1", 0.9), (3, "v1", 0.3)]


def test_known_keys_can_be_left_alone(warehouse: Connection[Any]):
    """`nothing` adds what is new."""
    write_scores(warehouse, [(1, "v1", 0.1)])
    rows = [(1, "v1", 0.9), (2, "v1", 0.2)]
    assert write_scores(warehouse, rows, on_conflict="nothing") == Written(2, 1)
    assert scores(warehouse) == [(1, "v1", 0.1), (2, "v1", 0.2)]


def test_mappings_come_in_any_order(warehouse: Connection[Any]):
    """The first one names the columns, the others may list them differently."""
    rows = (
        {"score": i / 10, "observation_id": i, "model_version": "v1"}
        if i % 2
        else {"observation_id": i, "model_version": "v1", "score": i / 10}
        for i in range(8)
    )
    assert write_scores(warehouse, rows, columns=None).rows == 8
    assert scores(warehouse) == [(i, "v1", i / 10) for i in range(8)]


@pytest.mark.parametrize("rows", [[], observations(0)])
def test_no_rows_are_no_error(warehouse: Connection[Any], rows: Any):
    """A day without data writes nothing."""
    columns = None if isinstance(rows, pd.DataFrame) else COLUMNS
    written = write(warehouse, rows, "observations", "observation_id", columns=columns)
    assert written == Written(0, 0)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((5, "v1", "high"), "Row 5, column 'score': expected a number .8 bytes., got 'high'."),
        ((5.5, "v1", 0.1), "Row 5, column 'observation_id': expected a whole number .*, got 5.5."),
        ((True, "v1", 0.1), "Row 5, column 'observation_id': expected a whole number .*, got True"),
        (("5", "v1", 0.1), "Row 5, column 'observation_id': expected a whole number .*, got '5'."),
        ((2**63, "v1", 0.1), "Row 5, column 'observation_id': expected a whole number from -9223"),
        ((5, None, 0.1), "Row 5, column 'model_version': expected text .*, got None."),
        ((5, "v\0", 0.1), r"Row 5, column 'model_version': expected text .*, got 'v\\x00'."),
        ((5, "\ud800", 0.1), "Row 5, column 'model_version': expected text"),
        ((5, "v1", 1.5), 'Row 5: .*violates check constraint "score_is_a_probability"'),
        ((3, "v1", 0.1), "Row 5: the same keys twice: .*observation_id, model_version.*3, v1"),
        ((5, "v1"), "Row 5: expected the 3 fields .*, found 2 fields."),
        ({"observation_id": 5, "model_version": "v1", "sore": 1}, "found missing .*unknown"),
    ],
)
def test_bad_row_is_named_and_nothing_is_written(
    warehouse: Connection[Any], row: Any, problem: str
):
    """Row 5 is in the second chunk; the first has been sent by then."""
    rows = [(i, "v1", 0.5) for i in range(1, 5)] + [row, (9, "v1", 0.5)]
    with pytest.raises(BadRowError, match=problem) as found:
        write_scores(warehouse, rows)
    assert found.value.row == 5
    assert str(found.value).endswith("Correct the data; nothing was written.")
    assert scores(warehouse) == []


def test_bad_row_of_a_frame_is_named(samples: Connection[Any]):
    """Whole columns are checked at once, the row is found all the same."""
    frame = pd.DataFrame({"id": range(6), "small": [1, 2, 3, 4, 2**15, 6]})
    with pytest.raises(BadRowError, match="Row 5, column 'small': .*-32768 to 32767, got 32768"):
        write(samples, frame, "samples", "id")
    frame = pd.DataFrame({"id": range(6), "small": [1, 2, 3, 4, 5.5, np.nan]})
    with pytest.raises(BadRowError, match="Row 5, column 'small': .*got 5.5"):
        write(samples, frame, "samples", "id")


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("at", datetime(2026, 1, 1), "expected a time with a zone"),
        ("day", datetime(2026, 1, 1, tzinfo=UTC), "expected a date"),
        ("narrow", 1e39, "expected a number"),
        ("flag", 1, "expected True or False"),
        ("raw", "text", "expected bytes"),
        ("doc", {"a": math.nan}, "expected what JSON can hold"),
        ("doc", {"a": "\0"}, "expected what JSON can hold"),
        ("short", "123456", "value too long"),
    ],
)
def test_value_that_the_type_cannot_hold_is_refused(
    samples: Connection[Any], column: str, value: object, problem: str
):
    """Nothing is bent to fit."""
    for rows in ([(1, value)], pd.DataFrame({"id": [1], column: [value]})):
        with pytest.raises(BadRowError, match=f"Row 1.*{problem}"):
            write(samples, rows, "samples", "id", columns=("id", column))


def test_naive_times_of_a_frame_are_refused(samples: Connection[Any]):
    """Which zone was meant is for the caller to say."""
    frame = pd.DataFrame({"id": [1], "at": pd.to_datetime(["2026-01-01"])})
    with pytest.raises(BadRowError, match="Row 1, column 'at': expected a time with a zone"):
        write(samples, frame, "samples", "id")


@pytest.mark.parametrize(
    ("table", "keys", "columns", "problem"),
    [
        ("nowhere", ("id",), ("id",), "Table 'nowhere' is not in the warehouse. Migrate it first"),
        (
            "samples",
            ("id",),
            ("id", "large"),
            "takes the columns .*, got .'large'.. Leave them out",
        ),
        ("samples", ("id",), ("id", "twice"), "got .'twice'"),
        ("samples", ("id",), ("id", "other"), "column 'other': .*found 'numeric'"),
        ("samples", (), ("id",), "keys must be columns given"),
        ("samples", ("day",), ("id",), "keys must be columns given"),
        ("samples", ("id", "day"), ("id", "day"), "keys must be a primary key or unique"),
        ("samples", ("id",), ("id", "id"), "columns must be different names"),
        ("samples", ("id",), None, "columns must name the fields, found tuples"),
    ],
)
def test_call_that_does_not_fit_the_table_is_refused(
    samples: Connection[Any], table: str, keys: tuple[str, ...], columns: Any, problem: str
):
    """Expected, found, what to do."""
    row = (1, None)[: len(columns or "1")]
    if "day" in keys:
        row = (1, RUN_STARTED.date())
    with pytest.raises(TargetError, match=problem):
        write(samples, [row], table, *keys, columns=columns)


def test_frame_without_a_column_is_refused(warehouse: Connection[Any]):
    """Columns named that the DataFrame lacks."""
    with pytest.raises(TargetError, match="must have the columns"):
        write_scores(warehouse, pd.DataFrame({"score": [1.0]}))
    with pytest.raises(TargetError, match="chunk_rows must be at least 1, got 0"):
        write_scores(warehouse, [], chunk_rows=0)


def test_refusal_of_the_table_itself_is_told(samples: Connection[Any]):
    """A constraint that only the table has, found when the rows are moved there."""
    samples.execute("CREATE UNIQUE INDEX ON samples (small)")
    samples.commit()
    with pytest.raises(WarehouseError, match="The warehouse refused the rows: .*Nothing was"):
        write(samples, [(1, 7), (2, 7)], "samples", "id", columns=("id", "small"))


def test_late_twin_of_an_older_try_writes_nothing(warehouse: Connection[Any]):
    """Try 1 comes back after try 2 has written."""
    write_scores(warehouse, [(1, "v1", 0.2)], by=writer(2))
    with pytest.raises(StaleTryError, match="expected try 1 to be the newest.*newer try"):
        write_scores(warehouse, [(1, "v1", 0.1)], by=writer(1))
    assert scores(warehouse) == [(1, "v1", 0.2)]


def test_twin_that_is_overtaken_while_it_writes_writes_nothing(
    warehouse: Connection[Any], warehouse_url: str
):
    """Try 2 starts and finishes while try 1 still sends rows."""

    def overtaken() -> Iterator[tuple[int, str, float]]:
        yield 1, "v1", 0.1
        with psycopg.connect(warehouse_url) as other:
            write_scores(other, [(1, "v1", 0.2)], by=writer(2))
        yield 2, "v1", 0.1

    with pytest.raises(StaleTryError):
        write_scores(warehouse, overtaken(), by=writer(1), chunk_rows=1)
    assert scores(warehouse) == [(1, "v1", 0.2)]


def test_mapped_siblings_and_other_runs_do_not_fence_each_other(warehouse: Connection[Any]):
    """The fence belongs to one task instance."""
    write_scores(warehouse, [(1, "v1", 0.1)], by=writer(5, map_index=0))
    for i, who in enumerate([writer(map_index=1), writer(run_id="next"), writer(dag_id="other")]):
        assert write_scores(warehouse, [(i + 2, "v1", 0.1)], by=who).changed == 1


def test_run_made_again_under_its_name_starts_over(warehouse: Connection[Any]):
    """Its tries count from 1; the deleted run's late twin is the stale one."""
    write_scores(warehouse, [(1, "v1", 0.3)], by=writer(3))
    again = writer(1, run_started_at=RUN_STARTED + timedelta(hours=1))
    write_scores(warehouse, [(1, "v1", 0.4)], by=again)
    with pytest.raises(StaleTryError):
        write_scores(warehouse, [(1, "v1", 0.5)], by=writer(4))
    assert scores(warehouse) == [(1, "v1", 0.4)]


def test_error_of_the_caller_s_iterator_leaves_nothing(warehouse: Connection[Any]):
    """It reaches the caller as it is."""

    def failing() -> Iterator[tuple[int, str, float]]:
        yield from [(i, "v1", 0.1) for i in range(9)]
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        write_scores(warehouse, failing())
    assert scores(warehouse) == []


def test_memory_does_not_grow_with_the_rows(warehouse: Connection[Any]):
    """Ten times the rows of an iterator, the same peak."""

    def peak_bytes(count: int) -> int:
        rows = ((i, "v1", 0.5) for i in range(count))
        tracemalloc.start()
        write_scores(warehouse, rows, chunk_rows=1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak_bytes(5_000), peak_bytes(50_000)
    assert many < 1.3 * few, (few, many)

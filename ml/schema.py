"""The layout of the table and its validation.

A table has `observation_id` (int64, unique), 30 float64 features named as scikit-learn publishes
them and `target` (int64; 0 malignant, 1 benign).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandera.pandas as pa
from pandas import DataFrame, Series, to_numeric
from pandera.errors import SchemaErrors

Check = Callable[["Series[Any]"], "Series[bool]"]
"""Gives True for every row that is right."""

MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
FEATURES = (
    *(f"mean {measure}" for measure in MEASURES),
    *(f"{measure} error" for measure in MEASURES),
    *(f"worst {measure}" for measure in MEASURES),
)
"""The 30 features in published order. Source: sklearn.datasets.load_breast_cancer."""

ID = "observation_id"
TARGET = "target"
MALIGNANT, BENIGN = 0, 1
COLUMNS = (ID, *FEATURES, TARGET)

MIN_ROWS = 100
"""Below this a held-out fifth has fewer than 20 rows, and a 95 % interval says nothing."""

MIN_ROWS_PER_CLASS = 25
"""Leaves 20 to train on, enough for 5 folds with 5 folds inside each."""

_ROWS_SHOWN = 5


class DatasetError(ValueError):
    """A data file or table cannot be used; the message lists every fault and says what to do."""

    retryable = False  # whoever runs the step: the same data fails again


def validate_table(table: DataFrame, *, source: str = "table") -> DataFrame:
    """Give the table in its canonical form: column order, types, rows ordered by `observation_id`.

    Args:
        table: (n, 32), any column order; numbers may still be text.
        source: file name for the error message.

    Raises:
        DatasetError: lists every fault at once: column, number of rows, first row numbers (the
            first data
            row is 1), examples; also missing and unexpected columns, missing classes and too few
            rows.
    """
    return _canonical(table, table_schema(), source)


def validate_batch(table: DataFrame, *, source: str = "batch") -> DataFrame:
    """Give a batch in the canonical form: rows to add to a table, of any number and class.

    Args and errors are those of `validate_table`, but for missing classes and too few rows; a batch
    has at least one row.
    """
    return _canonical(table, batch_schema(), source)


def _canonical(table: DataFrame, schema: pa.DataFrameSchema, source: str) -> DataFrame:
    table = table.reset_index(drop=True)
    try:
        schema.validate(table, lazy=True)
    except SchemaErrors as error:
        raise DatasetError(_message(source, error.failure_cases)) from None
    types = {ID: np.int64, **dict.fromkeys(FEATURES, np.float64), TARGET: np.int64}
    numeric = {name: to_numeric(table[name]).to_numpy(dtype=types[name]) for name in COLUMNS}
    return DataFrame(numeric).sort_values(ID, ignore_index=True)


def table_schema() -> pa.DataFrameSchema:
    """Build the schema of a table to train on."""
    return _schema(
        pa.Check(_has_rows(MIN_ROWS), error=f"fewer than {MIN_ROWS} rows"),
        *(
            pa.Check(_has_class(value), error=f"fewer than {MIN_ROWS_PER_CLASS} {name} rows")
            for name, value in (("malignant", MALIGNANT), ("benign", BENIGN))
        ),
    )


def batch_schema() -> pa.DataFrameSchema:
    """Build the schema of rows that are added to a table."""
    return _schema(pa.Check(_has_rows(1), error="no rows"))


def _schema(*checks: pa.Check) -> pa.DataFrameSchema:
    """Build the schema; a check's error text completes `column 'x': ... in 3 rows`."""
    number = [_check(_is_number, "text instead of a number"), _check(_is_finite, "infinite values")]
    positive = [*number, _check(_is_not_negative, "negative values")]
    identifier = [
        *number,
        _check(_is_whole, "no whole number below 2^53"),
        _check(_is_unique, "the value of an earlier row"),
    ]
    label = [*number, _check(_is_label, "neither 0 (malignant) nor 1 (benign)")]
    return pa.DataFrameSchema(
        {
            ID: pa.Column(checks=identifier),
            **{name: pa.Column(checks=positive) for name in FEATURES},
            TARGET: pa.Column(checks=label),
        },
        checks=list(checks),
        strict=True,
    )


def _check(is_right: Check, fault: str) -> pa.Check:
    return pa.Check(is_right, error=fault)


def _numbers(column: Series[Any]) -> Series[float]:
    return to_numeric(column, errors="coerce").astype("float64")


def _is_value(numbers: Series[float]) -> Series[bool]:
    """Tell finite numbers from text, gaps and infinities, which have checks of their own."""
    return numbers.notna() & ~numbers.isin([np.inf, -np.inf])


def _is_number(column: Series[Any]) -> Series[bool]:
    return _numbers(column).notna() | column.isna()


def _is_finite(column: Series[Any]) -> Series[bool]:
    return ~_numbers(column).isin([np.inf, -np.inf])


def _is_not_negative(column: Series[Any]) -> Series[bool]:
    return ~_numbers(column).between(-np.inf, 0, inclusive="neither")


def _is_whole(column: Series[Any]) -> Series[bool]:
    numbers = _numbers(column)
    return ((numbers % 1 == 0) & (numbers.abs() < 2**53)) | ~_is_value(numbers)


def _is_unique(column: Series[Any]) -> Series[bool]:
    return ~_numbers(column).dropna().duplicated().reindex(column.index, fill_value=False)


def _is_label(column: Series[Any]) -> Series[bool]:
    numbers = _numbers(column)
    return numbers.isin([MALIGNANT, BENIGN]) | ~_is_value(numbers)


def _has_rows(least: int) -> Callable[[DataFrame], bool]:
    return lambda table: len(table) >= least


def _has_class(value: int) -> Callable[[DataFrame], bool]:
    def has_class(table: DataFrame) -> bool:
        # A table without the column is told so by the schema; the count would only repeat it.
        return TARGET not in table or sum(_numbers(table[TARGET]) == value) >= MIN_ROWS_PER_CLASS

    return has_class


def _message(source: str, failures: DataFrame) -> str:
    faults = "\n".join(f"- {fault}" for fault in _describe_faults(failures))
    return (
        f"{source} must be a table of {ID}, {len(FEATURES)} features and {TARGET}; found:\n"
        f"{faults}\n"
        "Correct the file and put it into the landing folder again."
    )


def _describe_faults(failures: DataFrame) -> Iterator[str]:
    """Say each fault once, missing and unexpected columns first."""
    whole_table = failures["column"].isna()
    for check, cases in failures[whole_table].groupby("check", sort=False)["failure_case"]:
        names = ", ".join(repr(name) for name in cases)
        yield {
            "column_in_dataframe": f"missing columns: {names}",
            "column_in_schema": f"unexpected columns: {names}",
        }.get(str(check), str(check))
    for key, group in failures[~whole_table].groupby(["column", "check"], sort=False):
        column, check = map(str, key)
        yield f"column {column!r}: {_describe_cases(check, group)}"


def _describe_cases(check: str, cases: DataFrame) -> str:
    rows = [int(row) + 1 for row in cases["index"]]
    shown = ", ".join(map(str, rows[:_ROWS_SHOWN])) + (", ..." if len(rows) > _ROWS_SHOWN else "")
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    if check == "not_nullable":
        return f"empty cells in {count} (row {shown})"
    examples = ", ".join(repr(value) for value in cases["failure_case"].unique()[:3].tolist())
    return f"{check} in {count} (row {shown}; e.g. {examples})"

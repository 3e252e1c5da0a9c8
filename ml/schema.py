"""The layout of the table and its validation.

A table has `observation_id` (int64, unique), 30 float64 features named as scikit-learn publishes them and
`target` (int64; 0 malignant, 1 benign).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import pandera.pandas as pa
from pandas import DataFrame, Series, to_numeric
from pandera.errors import SchemaErrors

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

_IS_NUMBER = "is not a number"
_IS_MISSING = "is missing"
_IS_INFINITE = "is not finite"
_IS_NEGATIVE = "is negative"
_IS_NOT_WHOLE = "is not a whole number"
_IS_REPEATED = "is not unique"
_IS_NOT_LABEL = f"is neither {MALIGNANT} (malignant) nor {BENIGN} (benign)"


class DatasetError(ValueError):
    """A data file or table cannot be used; the message lists every fault and says what to do."""


def validate_table(table: DataFrame, *, source: str = "table") -> DataFrame:
    """Give the table in its canonical form: column order, types, rows ordered by `observation_id`.

    Args:
        table: (n, 32), any column order; numbers may still be text.
        source: file name for the error message.

    Raises:
        DatasetError: lists every fault at once: column, number of rows, first row numbers (the first data
            row is 1), examples; also missing and unexpected columns, missing classes and too few rows.
    """
    table = table.reset_index(drop=True)
    try:
        table_schema().validate(table, lazy=True)
    except SchemaErrors as error:
        raise DatasetError(_message(source, _describe_faults(error.failure_cases))) from None
    types = {ID: "int64", **dict.fromkeys(FEATURES, "float64"), TARGET: "int64"}
    canonical = DataFrame({name: to_numeric(table[name]).astype(types[name]) for name in COLUMNS})
    return canonical.sort_values(ID, ignore_index=True)


def table_schema() -> pa.DataFrameSchema:
    """Build the schema; each check's error text completes the sentence `column X: ... <text>`."""
    whole = [_check(_whole, _IS_NOT_WHOLE)]
    return pa.DataFrameSchema(
        {
            ID: pa.Column(nullable=True, checks=[*_number_checks(), *whole, _unique_check()]),
            **{name: pa.Column(nullable=True, checks=_feature_checks()) for name in FEATURES},
            TARGET: pa.Column(nullable=True, checks=[*_number_checks(), _label_check()]),
        },
        checks=[
            pa.Check(_has_enough_rows, error=f"fewer than {MIN_ROWS} rows"),
            pa.Check(_has_both_classes, error=f"fewer than {MIN_ROWS_PER_CLASS} rows in a class"),
        ],
        strict=True,
        unique_column_names=True,
    )


def _check(fails: object, error: str) -> pa.Check:
    raise NotImplementedError

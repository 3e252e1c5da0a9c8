"""What comes out of a real Postgres is what went in."""

from __future__ import annotations

from typing import Any

import numpy as np
from pandas.testing import assert_frame_equal
from psycopg import Connection

from celery_stack.warehouse.read import fetch
from ml.load import dataset_sha256, reference_table
from ml.schema import COLUMNS, FEATURES, validate_table
from tests.warehouse.test_write_rows import write


def test_table_of_the_pipeline_comes_back_to_the_last_bit(warehouse: Connection[Any]):
    """Training on what was ingested is training on what the file held."""
    table = reference_table()
    table[list(FEATURES)] *= np.random.default_rng(0).random((len(table), len(FEATURES)))
    write(warehouse, table, "observations", "observation_id")
    found = fetch(warehouse, "SELECT * FROM observations WHERE target IS NOT NULL", None)
    assert_frame_equal(validate_table(found[list(COLUMNS)]), table, check_exact=True)
    assert dataset_sha256(validate_table(found[list(COLUMNS)])) == dataset_sha256(table)


def test_values_travel_beside_the_query(warehouse: Connection[Any]):
    """No value becomes SQL; without rows the columns are there all the same."""
    found = fetch(warehouse, "SELECT %(text)s AS text", {"text": "'; DROP TABLE observations"})
    assert found["text"].tolist() == ["'; DROP TABLE observations"]
    none = fetch(warehouse, "SELECT * FROM observations WHERE observation_id < 0", None)
    assert none.empty
    assert set(COLUMNS) <= set(none.columns)

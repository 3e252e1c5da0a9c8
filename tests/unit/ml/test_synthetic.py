"""Synthetic batches: repeatable, valid, and like the reference."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from pandas.testing import assert_frame_equal

from ml.drift import population_stability
from ml.load import reference_table
from ml.schema import FEATURES, ID, TARGET, validate_batch
from ml.synthetic import MAX_ROWS, batch_name, make_batch

DAY = date(2026, 11, 24)


def test_the_day_decides_every_value() -> None:
    """The same day gives the same batch; another day or seed gives another."""
    batch = make_batch(DAY, rows=100, seed=42)
    assert_frame_equal(batch, make_batch(DAY, rows=100, seed=42), check_exact=True)
    for other in (
        make_batch(DAY + timedelta(days=1), rows=100, seed=42),
        make_batch(DAY, rows=100, seed=43),
    ):
        assert not batch[list(FEATURES)].equals(other[list(FEATURES)])


@pytest.mark.parametrize("rows", [20, 100, 1001])
def test_a_batch_is_valid_and_has_the_share_of_each_class(rows: int) -> None:
    """Ingesting finds no fault in it."""
    batch = validate_batch(make_batch(DAY, rows=rows, seed=42))
    assert len(batch) == rows
    assert batch[TARGET].mean() == pytest.approx(reference_table()[TARGET].mean(), abs=0.5 / rows)


def test_ids_collide_neither_with_real_ones_nor_with_another_days() -> None:
    """Ids are negative, and the largest batches of two days in a row share none."""
    today = make_batch(DAY, rows=MAX_ROWS, seed=42)[ID]
    tomorrow = make_batch(DAY + timedelta(days=1), rows=MAX_ROWS, seed=42)[ID]
    assert today.is_unique
    assert (today < 0).all()
    assert not set(today) & set(tomorrow)


def test_no_row_is_one_of_the_reference() -> None:
    """Else a row to train on could be one that was held out."""
    batch = make_batch(DAY, rows=500, seed=42)
    assert batch.merge(reference_table(), on=list(FEATURES)).empty


def test_a_large_batch_is_distributed_as_the_reference() -> None:
    """No feature has drifted."""
    batch, reference = make_batch(DAY, rows=3000, seed=42), reference_table()
    for name in FEATURES:
        assert population_stability(reference[name].to_numpy(), batch[name].to_numpy()) < 0.1, name


def test_the_file_is_named_for_the_day() -> None:
    """One file a day."""
    assert batch_name(DAY) == "synthetic-20261124.csv"

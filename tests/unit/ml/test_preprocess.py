"""The split: stratified, repeatable, without leaks."""

from __future__ import annotations

import pytest
from pandas import DataFrame, concat
from pandas.testing import assert_frame_equal

from ml.preprocess import Split, features_of, labels_of, split_dataset
from ml.schema import FEATURES, ID, TARGET, DatasetError


def test_split_keeps_the_class_balance(split: Split) -> None:
    """Both parts have the share of malignant rows that the whole has."""
    assert (len(split.train), len(split.test)) == (455, 114)
    assert labels_of(split.train).mean() == pytest.approx(0.3736, abs=0.005)
    assert labels_of(split.test).mean() == pytest.approx(0.3684, abs=0.005)
    assert not set(split.train[ID]) & set(split.test[ID])
    assert split.to_dict() == {"train": split.train, "test": split.test}


def test_row_order_leaves_the_split(table: DataFrame, split: Split) -> None:
    """The same rows and seed give the same split."""
    again = split_dataset(table.sample(frac=1, random_state=3), test_fraction=0.2, seed=42)
    assert_frame_equal(again.test, split.test)


def test_another_seed_gives_another_split(table: DataFrame, split: Split) -> None:
    """The seed is used."""
    other = split_dataset(table, test_fraction=0.2, seed=1)
    assert other.test[ID].tolist() != split.test[ID].tolist()


def test_repeated_observations_are_in_one_part_only(table: DataFrame) -> None:
    """A copy under another id is dropped, so train and test share no row."""
    doubled = concat([table, table.assign(**{ID: table[ID] + 1000})])
    parts = split_dataset(doubled, test_fraction=0.2, seed=42)
    assert len(parts.train) + len(parts.test) == len(table)


def test_a_class_too_small_to_split_is_refused(table: DataFrame) -> None:
    """The message has the counts and the remedy."""
    lopsided = concat([table[table[TARGET] == 1], table[table[TARGET] == 0].head(1)])
    with pytest.raises(DatasetError, match="must hold both classes, found rows per class"):
        split_dataset(lopsided, test_fraction=0.2, seed=42)


def test_malignant_is_the_positive_class(table: DataFrame) -> None:
    """Labels are 1 where the published target is 0."""
    assert labels_of(table).sum() == 212
    assert features_of(table).columns.tolist() == list(FEATURES)

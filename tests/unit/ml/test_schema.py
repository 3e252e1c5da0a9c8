"""The validation: good tables become canonical, bad ones are told every fault."""

from __future__ import annotations

import numpy as np
import pytest
from pandas import DataFrame, concat
from pandas.testing import assert_frame_equal
from sklearn.datasets import load_breast_cancer

from ml.schema import (
    COLUMNS,
    FEATURES,
    ID,
    TARGET,
    DatasetError,
    validate_batch,
    validate_table,
)


def fault_of(table: DataFrame) -> str:
    """Give the message with which validation refuses the table."""
    with pytest.raises(DatasetError) as caught:
        validate_table(table, source="new.csv")
    return str(caught.value)


def test_feature_names_are_those_published() -> None:
    """Names and order are scikit-learn's."""
    assert list(FEATURES) == load_breast_cancer().feature_names.tolist()


def test_a_good_table_comes_back_in_canonical_form(table: DataFrame) -> None:
    """Column order, types and row order no longer depend on the file."""
    shuffled = table.sample(frac=1, random_state=1)[list(reversed(COLUMNS))].astype("str")
    assert_frame_equal(validate_table(shuffled), table, check_exact=True)


def test_missing_values_are_listed_with_their_rows(table: DataFrame) -> None:
    """The message has column, number of rows and the first row numbers."""
    table.loc[[2, 4], "mean area"] = np.nan
    message = fault_of(table)
    assert message.startswith("new.csv must be a table of observation_id, 30 features and target")
    assert "- column 'mean area': empty cells in 2 rows (row 3, 5)" in message
    assert message.endswith("put it into the landing folder again.")


def test_a_table_of_nothing_but_empty_cells_is_refused_in_few_words(table: DataFrame) -> None:
    """One line per column, however many rows."""
    table[[*FEATURES, TARGET]] = np.nan
    message = fault_of(table)
    assert message.count(f"empty cells in {len(table)} rows") == len(FEATURES) + 1
    assert len(message) < 100 * (len(FEATURES) + 4)


def test_text_in_a_numeric_column_is_shown(table: DataFrame) -> None:
    """The message quotes the text and leaves the good cells alone."""
    table["mean area"] = table["mean area"].astype("str")
    table.loc[6, "mean area"] = "n/k"
    assert (
        "- column 'mean area': text instead of a number in 1 row (row 7; e.g. 'n/k')"
        in fault_of(table)
    )


def test_infinite_and_negative_values_are_told_apart(table: DataFrame) -> None:
    """Each value is named by one fault."""
    table.loc[0, "mean area"] = np.inf
    table.loc[1, "mean area"] = -np.inf
    table.loc[2, "mean area"] = -1.0
    message = fault_of(table)
    assert "infinite values in 2 rows (row 1, 2; e.g. inf, -inf)" in message
    assert "negative values in 1 row (row 3; e.g. -1.0)" in message


def test_every_fault_is_gathered(table: DataFrame) -> None:
    """One message shows all there is to correct."""
    table.loc[:9, "mean area"] = -1.0
    table.loc[1, TARGET] = 2
    table.loc[3, ID] = 2
    table = table.drop(columns=["mean texture", "worst area"]).assign(note="x")
    message = fault_of(table)
    assert "missing columns: 'mean texture', 'worst area'" in message
    assert "unexpected columns: 'note'" in message
    assert (
        "column 'mean area': negative values in 10 rows (row 1, 2, 3, 4, 5, ...; e.g. -1.0)"
        in message
    )
    assert (
        "column 'target': neither 0 (malignant) nor 1 (benign) in 1 row (row 2; e.g. 2)" in message
    )
    assert "column 'observation_id': the value of an earlier row in 1 row (row 4" in message


@pytest.mark.parametrize("value", [1.5, 2.0**60])
def test_an_id_must_be_a_whole_number_that_floats_hold(table: DataFrame, value: float) -> None:
    """Fractions and numbers beyond 2^53 cannot name an observation."""
    table[ID] = table[ID].astype("float64")
    table.loc[0, ID] = value
    assert "column 'observation_id': no whole number below 2^53 in 1 row" in fault_of(table)


@pytest.mark.parametrize(("value", "absent"), [(0, "benign"), (1, "malignant")])
def test_one_class_only_is_refused(table: DataFrame, value: int, absent: str) -> None:
    """Without both classes nothing can be learned."""
    assert f"fewer than 25 {absent} rows" in fault_of(table[table[TARGET] == value])


def test_too_few_rows_are_refused(table: DataFrame) -> None:
    """Cross-validation and the held-out rows need a minimum."""
    few = concat([table[table[TARGET] == 0].head(40), table[table[TARGET] == 1].head(40)])
    message = fault_of(few)
    assert "fewer than 100 rows" in message
    assert "benign rows" not in message


def test_a_table_without_target_is_told_so_once(table: DataFrame) -> None:
    """A missing target is no second fault about classes."""
    message = fault_of(table.drop(columns=TARGET))
    assert "missing columns: 'target'" in message
    assert "fewer than" not in message


def test_a_batch_may_be_small_and_of_one_class(table: DataFrame) -> None:
    """The least numbers of rows are for training; a batch only adds to it."""
    batch = table[table[TARGET] == 1].head(1)
    assert_frame_equal(validate_batch(batch), batch.reset_index(drop=True))


def test_a_batch_without_rows_is_refused(table: DataFrame) -> None:
    """A header alone is a mistake."""
    with pytest.raises(DatasetError, match=r"new\.csv must be a table .*\n- no rows"):
        validate_batch(table.head(0), source="new.csv")

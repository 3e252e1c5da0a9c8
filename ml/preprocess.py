"""From the table to train and test rows, and to features and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame
from sklearn.model_selection import train_test_split

from ml.schema import FEATURES, ID, MALIGNANT, TARGET, DatasetError


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out for the final test; no observation is in both."""

    train: DataFrame
    test: DataFrame

    def to_dict(self) -> dict[str, DataFrame]:
        """Give both tables by name."""
        return {"train": self.train, "test": self.test}


def split_dataset(table: DataFrame, *, test_fraction: float, seed: int) -> Split:
    """Split rows into train and test, keeping the class balance; rows and seed decide the split.

    Rows that repeat another's features and target are dropped first: one copy in train and one in
    test would let the test measure memory. WDBC itself has none.

    Args:
        table: (n, 32) as `validate_table` gives it, in any row order.
        test_fraction: share of rows held out, 0 < x < 1.
        seed: of the shuffle.

    Raises:
        DatasetError: a class is too small for the split.
    """
    distinct = table.sort_values(ID).drop_duplicates([*FEATURES, TARGET], ignore_index=True)
    try:
        train, test = train_test_split(
            distinct, test_size=test_fraction, stratify=distinct[TARGET], random_state=seed
        )
    except ValueError as error:
        counts = distinct[TARGET].value_counts().to_dict()
        raise DatasetError(
            f"Both parts of the split must hold both classes, found rows per class {counts} at a "
            f"test fraction of {test_fraction} ({error}). Add rows or change ML_TEST_FRACTION."
        ) from None
    return Split(train=train.reset_index(drop=True), test=test.reset_index(drop=True))


def features_of(table: DataFrame) -> DataFrame:
    """Give the (n, 30) float64 features in published order, named so that a model can check."""
    return table[list(FEATURES)].astype("float64")


def labels_of(table: DataFrame) -> NDArray[np.int64]:
    """Give the (n,) labels: 1 malignant (the positive class), 0 benign: `target` turned round."""
    return np.asarray(table[TARGET] == MALIGNANT, dtype="int64")

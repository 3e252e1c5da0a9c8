"""Tables and quickly trained candidates for the tests of `ml`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pandas import DataFrame
from upath import UPath

from ml.evaluate import Comparison, compare_candidates
from ml.load import reference_table
from ml.preprocess import Split, split_dataset
from ml.schema import FEATURES, ID, TARGET
from ml.train import SavedCandidate, train_and_save


@pytest.fixture
def table() -> DataFrame:
    """Give WDBC, free to be changed."""
    return reference_table()


@pytest.fixture(scope="session")
def split() -> Split:
    """Give WDBC split at the default settings."""
    return split_dataset(reference_table(), test_fraction=0.2, seed=42)


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> UPath:
    """Give the artifact store that holds the models of `saved`."""
    return UPath(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def saved(split: Split, trained_store: UPath) -> list[SavedCandidate]:
    """Train two quick candidates on two folds."""
    return [
        train_and_save(name, split.train, store=trained_store, seed=42, folds=2, repeats=1)
        for name in ("logistic_regression", "svm")
    ]


@pytest.fixture(scope="session")
def comparison(saved: list[SavedCandidate], split: Split) -> Comparison:
    """Compare the quick candidates."""
    return compare_candidates(saved, split.test, bootstrap_samples=200, seed=42)


@pytest.fixture
def write_csv(tmp_path: Path) -> object:
    """Give a function that writes a table as CSV and gives the path."""

    def write(table: DataFrame, name: str = "data.csv") -> Path:
        path = tmp_path / name
        table.to_csv(path, index=False)
        return path

    return write


@pytest.fixture
def uci_text(table: DataFrame) -> str:
    """Give WDBC in the raw UCI form: id, M or B, 30 numbers, no header."""
    rows = table.assign(letter=["MB"[value] for value in table[TARGET]])
    return str(rows[[ID, "letter", *FEATURES]].to_csv(index=False, header=False))

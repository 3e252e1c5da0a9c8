"""Models that are trained quickly, to stand in a stack's registry."""

from __future__ import annotations

from datetime import UTC, datetime

from pandas import DataFrame
from upath import UPath

from ml.evaluate import Comparison, compare_candidates
from ml.registry import HELD_OUT_FILE, Registry
from ml.schema import ID
from ml.train import train_and_save


def train_quickly(candidate: str, train: DataFrame, test: DataFrame, store: UPath) -> Comparison:
    """Train one candidate with few folds, and measure it on the test rows."""
    saved = train_and_save(candidate, train, store=store, seed=42, folds=2, repeats=1)
    return compare_candidates([saved], test, bootstrap_samples=200, seed=42)


def register(
    comparison: Comparison, test: DataFrame, store: UPath, *, run_id: str, data_sha256: str
) -> str:
    """Register a model whose held-out rows are said to be those of `test`; give its version."""
    manifest = Registry(store).register(
        comparison,
        run_id=run_id,
        run_date=datetime.now(UTC),
        data_sha256=data_sha256,
        code_version="tests",
        derived={HELD_OUT_FILE: test[[ID]].to_csv(index=False).encode()},
    )
    return manifest.version

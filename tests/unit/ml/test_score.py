"""Predictions: probabilities, labels by the tuned threshold, drift by file."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from pandas import concat
from sklearn.metrics import brier_score_loss
from upath import UPath

from ml.artifacts import load_model
from ml.evaluate import Comparison
from ml.load import gather_dataset, reference_table
from ml.preprocess import Split, features_of, labels_of
from ml.registry import Registry
from ml.schema import FEATURES, ID, TARGET
from ml.score import score_batches, score_rows
from ml.synthetic import make_batch
from ml.train import SavedCandidate, raw_scores


@pytest.mark.parametrize("index", [0, 1])
def test_scores_are_calibrated_probabilities_in_the_order_of_the_model(
    saved: list[SavedCandidate], split: Split, index: int
) -> None:
    """Of a model with probabilities and of the SVM, which has none; on rows that it has not seen."""
    candidate = saved[index]
    model = load_model(candidate.model_file.path, candidate.model_file.sha256)
    scored = score_rows(split.test, model, candidate.calibration)
    assert scored["score"].between(0, 1).all()
    raw = raw_scores(model, features_of(split.test))
    assert np.array_equal(
        np.argsort(raw, kind="stable"), np.argsort(scored["score"], kind="stable")
    )
    assert brier_score_loss(labels_of(split.test), scored["score"]) < 0.04


def test_labels_are_coded_as_the_target_and_decided_by_the_threshold(
    comparison: Comparison, split: Split
) -> None:
    """Joined with the observations, label and target mean the same."""
    best = comparison.best
    model = load_model(best.model_file.path, best.model_file.sha256)
    scored = score_rows(split.test, model, best.calibration)
    assert (scored["label"] == split.test[TARGET]).mean() == comparison.evaluation.values[
        "accuracy"
    ]
    assert scored[ID].tolist() == split.test[ID].tolist()


def test_each_file_is_held_against_the_data_trained_on(
    comparison: Comparison, tmp_path: Path
) -> None:
    """A drifted batch stands out by its features and its score; one like the reference does not."""
    store = UPath(tmp_path)
    data = gather_dataset(reference_table(), tmp_path, store, offer_reference=False)
    version = Registry(store).register(
        comparison,
        run_id="run-1",
        run_date=datetime(2026, 11, 24, tzinfo=UTC),
        data_sha256=data.sha256,
        code_version="abc",
    ).version  # fmt: skip
    like = make_batch(date(2026, 11, 24), rows=1000, seed=42).assign(source="like.csv")
    drifted = make_batch(date(2026, 11, 25), rows=100, seed=42).assign(source="drifted.csv")
    drifted[list(FEATURES[:10])] *= 1.5
    predictions, drift = score_batches(concat([like, drifted]), version, store)
    assert set(predictions.columns) == {ID, "model_version", "score", "label"}
    assert set(drift["model_version"]) == {version}
    highest = drift.groupby("batch")["psi"].max()
    assert highest["like.csv"] < 0.1
    assert highest["drifted.csv"] > 1
    assert set(drift["feature"]) == {*FEATURES, "score"}
    assert drift.groupby("batch")["rows"].first().to_dict() == {
        "drifted.csv": 100,
        "like.csv": 1000,
    }

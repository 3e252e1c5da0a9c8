"""Evaluation: the choice, the metrics and their intervals, the bar."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from ml.artifacts import ArtifactError, ModelFile, load_model
from ml.evaluate import (
    BARS,
    Comparison,
    compare_candidates,
    evaluate_model,
    missed_bars,
    select_best,
)
from ml.preprocess import Split, features_of, labels_of
from ml.schema import TARGET, DatasetError
from ml.train import Candidate, SavedCandidate


def candidate(name: str, *scores: float) -> Candidate:
    """Give a candidate with these selection scores, one per fold."""
    table = DataFrame({"f_beta": scores})
    return Candidate(name=name, params={}, threshold=0.5, cv_table=table)


def test_the_highest_cross_validated_score_wins() -> None:
    """Order plays no part."""
    low, high = candidate("a", 0.90, 0.92), candidate("b", 0.95, 0.93)
    assert select_best([low, high]) is select_best([high, low]) is high


def test_ties_go_to_the_steadier_then_to_the_first_name() -> None:
    """The choice is the same whatever the order."""
    wide, narrow = candidate("a", 0.8, 1.0), candidate("b", 0.89, 0.91)
    twin = candidate("c", 0.89, 0.91)
    assert select_best([wide, twin, narrow]) is select_best([narrow, wide, twin]) is narrow


def test_no_candidate_is_refused() -> None:
    """The message says what to set."""
    with pytest.raises(ValueError, match="at least one candidate, found none"):
        select_best([])


@pytest.mark.parametrize("index", [0, 1])
def test_metrics_are_scikit_learns(saved: list[SavedCandidate], split: Split, index: int) -> None:
    """Values agree with scikit-learn's, malignant as the positive class."""
    model = load_model(saved[index].model_file.path, saved[index].model_file.sha256)
    labels, features = labels_of(split.test), features_of(split.test)
    predicted = model.predict(features)
    score = getattr(model, "decision_function", None) or (lambda x: model.predict_proba(x)[:, 1])
    found = evaluate_model(model, split.test, bootstrap_samples=100, seed=42)
    assert found.values == pytest.approx(
        {
            "accuracy": accuracy_score(labels, predicted),
            "precision": precision_score(labels, predicted),
            "recall": recall_score(labels, predicted),
            "f1": f1_score(labels, predicted),
            "roc_auc": roc_auc_score(labels, score(features)),
        }
    )
    counts = [found.confusion[f"{kind}"] for kind in ("true_negative", "false_positive")]
    assert counts == confusion_matrix(labels, predicted)[0].tolist()
    assert sum(found.confusion.values()) == found.rows == 114
    assert found.threshold == saved[index].threshold


def test_intervals_hold_the_value(comparison: Comparison) -> None:
    """Each interval surrounds its value and stays between 0 and 1."""
    for estimate in comparison.evaluation.metrics.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert comparison.evaluation.metrics["accuracy"].low < 1


def test_the_seed_decides_the_intervals(
    saved: list[SavedCandidate], split: Split, comparison: Comparison
) -> None:
    """The same seed gives the same interval; another gives another."""
    again = compare_candidates(saved, split.test, bootstrap_samples=200, seed=42)
    other = compare_candidates(saved, split.test, bootstrap_samples=200, seed=43)
    assert again.evaluation == comparison.evaluation
    assert other.evaluation.values == comparison.evaluation.values
    assert other.evaluation != comparison.evaluation


def test_a_model_that_calls_nothing_malignant_has_zero_precision(split: Split) -> None:
    """No division by zero, as in scikit-learn."""

    class CallsNothing:
        threshold = 2.0

        def predict(self, features: DataFrame) -> np.ndarray:
            return np.zeros(len(features), dtype="int64")

        def decision_function(self, features: DataFrame) -> np.ndarray:
            return np.zeros(len(features))

    found = evaluate_model(CallsNothing(), split.test, bootstrap_samples=100, seed=42)  # type: ignore[arg-type]
    assert (found.values["precision"], found.values["recall"]) == (0, 0)
    assert found.values["roc_auc"] == 0.5


def test_test_rows_of_one_class_are_refused(comparison: Comparison, split: Split) -> None:
    """Recall of no malignant rows means nothing."""
    benign = split.test[split.test[TARGET] == 1]
    with pytest.raises(DatasetError, match="found 0 malignant of 72"):
        compare_candidates([comparison.best], benign, bootstrap_samples=100, seed=42)


def test_a_changed_model_is_not_evaluated(comparison: Comparison, split: Split) -> None:
    """The candidate's hash is checked on the way in."""
    file = ModelFile(path=comparison.best.model_file.path, sha256="0" * 64, bytes=1)
    with pytest.raises(ArtifactError, match="must have SHA-256 0000"):
        compare_candidates(
            [replace(comparison.best, model_file=file)], split.test, bootstrap_samples=100, seed=42
        )


def test_a_comparison_survives_json(comparison: Comparison) -> None:
    """What crosses task borders comes back equal, with every candidate's folds."""
    again = Comparison.from_dict(json.loads(json.dumps(comparison.to_dict())))
    assert again == comparison
    assert_frame_equal(again.cv_table, comparison.cv_table)
    assert set(again.cv_table["candidate"]) == {"logistic_regression", "svm"}
    assert again.missed_bars == comparison.missed_bars


def test_missed_bars_are_named() -> None:
    """A metric on its bar passes; one below, or not a number, is told with both values."""
    assert missed_bars(BARS) == []
    assert missed_bars({**BARS, "recall": 0.9524}) == ["recall must be at least 0.97, got 0.9524"]
    assert missed_bars({**BARS, "f1": float("nan")}) == ["f1 must be at least 0.96, got nan"]

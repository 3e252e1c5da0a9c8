"""The best candidate and its metrics on the held-out rows; malignant is the positive class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, concat
from sklearn.model_selection import FixedThresholdClassifier

from ml.artifacts import load_model
from ml.preprocess import features_of, labels_of
from ml.schema import DatasetError
from ml.train import Candidate, SavedCandidate, bounded_threads, raw_scores

BARS = {"accuracy": 0.96, "precision": 0.95, "recall": 0.97, "f1": 0.96}
"""The least value of each metric for a model to be good enough."""

_Floats = NDArray[np.float64]
AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


@dataclass(frozen=True)
class Estimate:
    """A metric, from 0 to 1, or the difference of two, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on n held-out rows at its threshold.

    `metrics` has accuracy, precision, recall, f1 and roc_auc; `confusion` counts rows:
    true_positive, false_positive, false_negative (missed malignancies), true_negative.
    """

    metrics: dict[str, Estimate]
    confusion: dict[str, int]
    threshold: float
    rows: int

    @property
    def values(self) -> dict[str, float]:
        """Give each metric's value without its interval."""
        return {name: estimate.value for name, estimate in self.metrics.items()}

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        metrics = {name: Estimate(**values) for name, values in fields["metrics"].items()}
        return cls(**{**fields, "metrics": metrics})


@dataclass(frozen=True)
class Comparison:
    """The best candidate with its evaluation, and the per-fold scores of all that were compared."""

    best: SavedCandidate
    evaluation: Evaluation
    cv_table: DataFrame = field(repr=False, compare=False)

    @property
    def missed_bars(self) -> list[str]:
        """Say which bars are missed; empty if the model is good enough.

        The cross-validated means must reach them: they rest on every training row, several times.
        The held-out rows are few (one missed malignancy of 42 is 0.024 of recall), so they may not
        contradict a bar: their intervals must reach it.
        """
        means = {name: scores["mean"] for name, scores in self.best.cv_metrics.items()}
        limits = {name: estimate.high for name, estimate in self.evaluation.metrics.items()}
        held_out = [f"upper limit on the held-out rows: {line}" for line in missed_bars(limits)]
        return missed_bars(means) + held_out

    def to_dict(self) -> dict[str, Any]:
        """Give JSON types: the fields, plus the missed bars."""
        return {
            "best": self.best.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "cv_table": self.cv_table.to_dict(orient="records"),
            "missed_bars": self.missed_bars,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        return cls(
            best=SavedCandidate.from_dict(values["best"]),
            evaluation=Evaluation.from_dict(values["evaluation"]),
            cv_table=DataFrame(values["cv_table"]),
        )


def compare_candidates(
    candidates: Sequence[SavedCandidate], test: DataFrame, *, bootstrap_samples: int, seed: int
) -> Comparison:
    """Choose the best candidate by cross-validation and evaluate it alone on the held-out rows.

    Args:
        candidates: at least one.
        test: (n, 32) held-out rows.
        bootstrap_samples: resamples behind each interval, >= 1.
        seed: of the resampling.

    Raises:
        ArtifactError: the model's file is missing or was changed.
        DatasetError: the test rows lack a class.
    """
    best = select_best(candidates)
    model = load_model(best.model_file.path, best.model_file.sha256)
    return Comparison(
        best=best,
        evaluation=evaluate_model(model, test, bootstrap_samples=bootstrap_samples, seed=seed),
        cv_table=concat([candidate.cv_table for candidate in candidates], ignore_index=True),
    )


def select_best(candidates: Sequence[AnyCandidate]) -> AnyCandidate:
    """Give the candidate with the highest `cv_score`; ties go to the steadier, then the first name.

    Raises:
        ValueError: there is none.
    """
    if not candidates:
        raise ValueError("Choosing needs at least one candidate, found none.")
    return min(
        candidates, key=lambda c: (-round(c.cv_score, 12), round(c.cv_score_std, 12), c.name)
    )


def evaluate_model(
    model: FixedThresholdClassifier, test: DataFrame, *, bootstrap_samples: int, seed: int
) -> Evaluation:
    """Measure a model on held-out rows; the bootstrap draws within each class, so both sizes stay.

    Args:
        model: gives 1 for malignant.
        test: (n, 32) rows that the model has not seen.
        bootstrap_samples: resamples behind each interval, >= 1.
        seed: of the resampling.

    Raises:
        DatasetError: a class is absent.
    """
    labels = labels_of(test)
    if len(set(labels.tolist())) < 2:
        raise DatasetError(
            f"Evaluation needs malignant and benign rows, found {int(labels.sum())} malignant "
            f"of {len(labels)}. Raise ML_TEST_FRACTION."
        )
    outcome = _outcome(model, test)
    drawn = _resamples(*outcome.sizes, bootstrap_samples, seed)
    point, spread = outcome.metrics(*outcome.once), outcome.metrics(*drawn)
    return Evaluation(
        metrics={name: _estimate(point[name][0], spread[name]) for name in point},
        confusion={
            "true_positive": int(outcome.hits.sum()),
            "false_positive": int(outcome.alarms.sum()),
            "false_negative": int((~outcome.hits).sum()),
            "true_negative": int((~outcome.alarms).sum()),
        },
        threshold=float(model.threshold),
        rows=len(test),
    )


def compare_paired(
    model: FixedThresholdClassifier,
    other: FixedThresholdClassifier,
    rows: DataFrame,
    *,
    bootstrap_samples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Give each metric of `model` minus that of `other` on the same rows, from -1 to 1.

    Each resample of the bootstrap draws the same rows for both, so what makes a row hard for both
    cancels out.

    Args:
        rows: (n, 32) rows of both classes that neither model has seen.
        bootstrap_samples: resamples behind each interval, >= 1.
        seed: of the resampling.
    """
    first, second = _outcome(model, rows), _outcome(other, rows)
    drawn = _resamples(*first.sizes, bootstrap_samples, seed)
    point = _difference(first.metrics(*first.once), second.metrics(*first.once))
    spread = _difference(first.metrics(*drawn), second.metrics(*drawn))
    return {name: _estimate(point[name][0], spread[name]) for name in point}


def missed_bars(metrics: Mapping[str, float]) -> list[str]:
    """Say which `BARS` are missed, a line each: `recall must be at least 0.97, got 0.9524`."""
    return [
        f"{name} must be at least {bar}, got {metrics[name]:.4f}"
        for name, bar in BARS.items()
        if not metrics[name] >= bar
    ]


@dataclass(frozen=True)
class _Outcome:
    """What a model makes of p malignant and q benign rows.

    `hits` (p,): called malignant; `alarms` (q,): the same; `above` (p, q) from
    `_pairs_ranked_right`.
    """

    hits: NDArray[np.bool_]
    alarms: NDArray[np.bool_]
    above: _Floats

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.hits), len(self.alarms)

    @property
    def once(self) -> list[_Floats]:
        """Weights that count each row once."""
        return [np.ones((1, size)) for size in self.sizes]

    def metrics(self, positive_weights: _Floats, negative_weights: _Floats) -> dict[str, _Floats]:
        """Give each metric for each of s weightings: (s, p) and (s, q)."""
        return _weighted_metrics(
            self.hits, self.alarms, self.above, positive_weights, negative_weights
        )


def _outcome(model: FixedThresholdClassifier, rows: DataFrame) -> _Outcome:
    labels, features = labels_of(rows), features_of(rows)
    with bounded_threads(1):
        called, scores = model.predict(features) == 1, raw_scores(model, features)
    positive, negative = labels == 1, labels == 0
    above = _pairs_ranked_right(scores[positive], scores[negative])
    return _Outcome(called[positive], called[negative], above)


def _pairs_ranked_right(positive: _Floats, negative: _Floats) -> _Floats:
    """Give (p, q): 1 if malignant row p scores above benign row q, 0.5 if equal; mean is AUC."""
    difference = positive[:, None] - negative[None, :]
    return np.asarray(np.where(difference == 0, 0.5, difference > 0))


def _resamples(positives: int, negatives: int, samples: int, seed: int) -> list[_Floats]:
    """Draw how often each row appears in each resample: (samples, p) and (samples, q) counts."""
    random = np.random.default_rng(seed)
    return [
        random.multinomial(count, np.full(count, 1 / count), size=samples).astype("float64")
        for count in (positives, negatives)
    ]


def _weighted_metrics(
    hits: NDArray[np.bool_],
    alarms: NDArray[np.bool_],
    above: _Floats,
    positive_weights: _Floats,
    negative_weights: _Floats,
) -> dict[str, _Floats]:
    """Give each metric for each of s weightings of the rows.

    Args:
        hits: (p,) malignant rows called malignant.
        alarms: (q,) benign rows called malignant.
        above: (p, q) from `_pairs_ranked_right`.
        positive_weights: (s, p) weights of the malignant rows.
        negative_weights: (s, q) weights of the benign rows.
    """
    positives, negatives = positive_weights.sum(axis=1), negative_weights.sum(axis=1)
    true_positive, false_positive = positive_weights @ hits, negative_weights @ alarms
    called = true_positive + false_positive
    return {
        "accuracy": (true_positive + negatives - false_positive) / (positives + negatives),
        # Nothing called malignant: precision counts as 0, as scikit-learn has it.
        "precision": true_positive / np.maximum(called, 1),
        "recall": true_positive / positives,
        "f1": 2 * true_positive / (called + positives),
        "roc_auc": ((positive_weights @ above) * negative_weights).sum(axis=1)
        / (positives * negatives),
    }


def _difference(
    minuends: Mapping[str, _Floats], subtrahends: Mapping[str, _Floats]
) -> dict[str, _Floats]:
    return {name: values - subtrahends[name] for name, values in minuends.items()}


def _estimate(value: float, spread: _Floats) -> Estimate:
    low, high = np.percentile(spread, [2.5, 97.5])
    return Estimate(value=float(value), low=float(low), high=float(high))

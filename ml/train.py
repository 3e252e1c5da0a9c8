"""The candidates: four models, tuned and cross-validated on the training rows alone.

Each is a pipeline whose scaler sees training folds only. A candidate is trained in three steps:

1. A small grid is tuned by ROC-AUC, which needs no threshold, over repeated stratified folds.
2. The grid's winner is cross-validated over the same folds, its decision threshold tuned on folds
   inside each training fold: the scores of `cv_table`. The parameters are those of step 1 in every
   fold, so the scores are slightly optimistic about them.
3. It is fitted on all training rows, the threshold tuned on folds of them.

One score tunes the threshold and chooses among candidates: F2, the F-beta in which recall weighs
twice as much as precision, because a missed malignancy costs more than a false alarm. The features
are lengths, areas and ratios with long right tails: their square roots go into the scaler, which
moves the SVM's precision at a recall of 0.976 from 0.957 to 0.962, class weights then to 0.964
(cross-validated, best of a small grid each). What the whole procedure reaches on rows it has not seen is measured by
`tests/benchmarks/bench_model.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray
from pandas import DataFrame
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RepeatedStratifiedKFold,
    TunedThresholdClassifierCV,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from upath import UPath

from ml.artifacts import ModelFile, save_model
from ml.preprocess import features_of, labels_of
from ml.schema import DatasetError

METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc")
SELECTION_SCORE = "f_beta"
BETA = 2.0
"""Weight of recall against precision; the module's docstring says why."""


_Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """An untrained model, the grid to tune it over, and the repeats that tune its threshold.

    Grid keys are the model's parameters. More repeats give a steadier threshold: ten where a fit
    takes milliseconds, fewer where they would cost a minute.
    """

    model: Callable[[int], BaseEstimator]
    grid: dict[str, list[Any]]
    threshold_repeats: int


# Small grids around values known to suit scaled WDBC: all four take some 35 s on one core.
# GradientBoosting rather than HistGradientBoosting: cross-validated on the training rows both give an
# accuracy of 0.967 and a ROC-AUC of 0.993 at the same cost, and this one runs without OpenMP.
RECIPES = {
    "logistic_regression": Recipe(
        lambda seed: LogisticRegression(max_iter=5000),
        {"C": [0.1, 0.3, 1.0, 3.0]},
        threshold_repeats=10,
    ),
    "svm": Recipe(
        lambda seed: SVC(kernel="rbf", class_weight="balanced"),
        {"C": [3.0, 10.0, 30.0], "gamma": [0.003, 0.01, 0.03]},
        threshold_repeats=10,
    ),
    "random_forest": Recipe(
        lambda seed: RandomForestClassifier(n_estimators=40, n_jobs=1, random_state=seed),
        {"min_samples_leaf": [1, 3]},
        threshold_repeats=2,
    ),
    "gradient_boosting": Recipe(
        lambda seed: GradientBoostingClassifier(
            n_estimators=60,
            learning_rate=0.2,
            subsample=0.7,
            max_features="sqrt",
            random_state=seed,
        ),
        {"max_depth": [2, 3]},
        threshold_repeats=2,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A tuned model's name, parameters and cross-validated scores.

    `threshold` is on the scale of the model: a probability of malignancy, or the SVM's signed
    distance. `cv_table` has a row per repeat and fold: `candidate`, `repeat` and `fold` (from 1),
    `threshold` `f_beta` and the five `METRICS`.
    """

    name: str
    params: dict[str, Any]
    threshold: float
    cv_table: DataFrame = field(repr=False, compare=False)

    @property
    def cv_score(self) -> float:
        """The selection score of every candidate: mean F-beta over the folds."""
        return float(self.cv_table[SELECTION_SCORE].mean())

    @property
    def cv_score_std(self) -> float:
        """Standard deviation of the selection score over the folds."""
        return float(self.cv_table[SELECTION_SCORE].std(ddof=0))

    @property
    def cv_metrics(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation of each metric over the folds, at their thresholds."""
        return {
            name: {
                "mean": float(self.cv_table[name].mean()),
                "std": float(self.cv_table[name].std(ddof=0)),
            }
            for name in METRICS
        }


@dataclass(frozen=True)
class Calibration:
    """Turns a model's raw score into a probability of malignancy: logistic(slope * raw + intercept).

    Fitted (Platt's method) on the scores that training rows got while they were left out of a fold.
    """

    slope: float
    intercept: float

    def to_dict(self) -> dict[str, float]:
        """Give the fields as JSON types."""
        return asdict(self)

    def probabilities(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n,) probabilities, each from 0 to 1, for (n,) raw scores."""
        return np.asarray(expit(self.slope * raw + self.intercept))


@dataclass(frozen=True, kw_only=True)
class TrainedCandidate(Candidate):
    """A candidate with its model: `predict` gives 1 for malignant at the tuned threshold."""

    calibration: Calibration
    model: FixedThresholdClassifier = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class SavedCandidate(Candidate):
    """A candidate whose model lies in the artifact store; crosses task borders as JSON."""

    calibration: Calibration
    model_file: ModelFile

    def to_dict(self) -> dict[str, Any]:
        """Give JSON types: the fields, plus the scores that the table yields, for readers."""
        return {
            "name": self.name,
            "params": self.params,
            "threshold": self.threshold,
            "cv_table": self.cv_table.to_dict(orient="records"),
            "calibration": self.calibration.to_dict(),
            "model_file": self.model_file.to_dict(),
            "cv_score": self.cv_score,
            "cv_score_std": self.cv_score_std,
            "cv_metrics": self.cv_metrics,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild what `to_dict` gave."""
        kept = {item.name: values[item.name] for item in fields(cls)}
        kept["cv_table"] = DataFrame(values["cv_table"])
        kept["calibration"] = Calibration(**values["calibration"])
        kept["model_file"] = ModelFile.from_dict(values["model_file"])
        return cls(**kept)


def f_beta(labels: _Labels, predicted: _Labels) -> float:
    """Give F-beta of the class 1 at `BETA`, from 0 to 1; 0 if no row is, or is called, 1.

    scikit-learn's `fbeta_score` checks its input for longer than it counts: tuning a threshold
    asks a hundred times per fold, and took 25 times as long with it.

    Args:
        labels: (n,) 1 malignant, 0 benign.
        predicted: (n,) the same.
    """
    hits = np.count_nonzero(labels & predicted)
    weight = BETA**2 * np.count_nonzero(labels) + np.count_nonzero(predicted)
    return float((1 + BETA**2) * hits / weight) if weight else 0.0


def train_candidate(
    name: str, train: DataFrame, *, seed: int, folds: int, repeats: int, threads: int = 1
) -> TrainedCandidate:
    """Tune, cross-validate and fit one candidate; rows and seed decide the bytes, not `threads`.

    Args:
        name: one of `RECIPES`.
        train: (n, 32) training rows.
        seed: of folds and model.
        folds: folds per repeat, >= 2.
        repeats: repeats of the cross-validation, >= 1.
        threads: threads in use at once, >= 1.

    Raises:
        ValueError: unknown name.
        DatasetError: a class has fewer than 2 x folds rows.
    """
    if name not in RECIPES:
        raise ValueError(f"The candidate must be one of {', '.join(RECIPES)}, got {name!r}.")
    features, labels = features_of(train), labels_of(train)
    _check_rows_per_class(labels, folds)
    outer = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    with bounded_threads(threads):
        params = _tune(name, features, labels, outer, seed)
        pipeline = build_pipeline(name, seed).set_params(**params)
        repeats = RECIPES[name].threshold_repeats
        tuned = _with_threshold(pipeline, folds=folds, repeats=repeats, seed=seed)
        scores = cross_validate(
            tuned,
            features,
            labels,
            cv=outer,
            scoring=_scoring(),
            return_estimator=True,
            return_indices=True,
        )
        calibration = _calibrate(scores, features, labels)
        tuned.fit(features, labels)
    return TrainedCandidate(
        name=name,
        params={key.removeprefix("model__"): value for key, value in params.items()},
        threshold=float(tuned.best_threshold_),
        cv_table=_cv_table(name, scores, folds),
        calibration=calibration,
        # The fitted parts alone: loading it needs scikit-learn, not this module.
        model=FixedThresholdClassifier(tuned.estimator_, threshold=float(tuned.best_threshold_)),
    )


def train_and_save(
    name: str,
    train: DataFrame,
    *,
    store: UPath,
    seed: int,
    folds: int,
    repeats: int,
    threads: int = 1,
) -> SavedCandidate:
    """Train one candidate (see `train_candidate`); keep its model under `candidates/`."""
    trained = train_candidate(name, train, seed=seed, folds=folds, repeats=repeats, threads=threads)
    return SavedCandidate(
        name=name,
        params=trained.params,
        threshold=trained.threshold,
        cv_table=trained.cv_table,
        calibration=trained.calibration,
        model_file=save_model(trained.model, store / "candidates"),
    )


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Keep the work inside to `threads` threads: joblib gets them, BLAS and OpenMP one each.

    Threads, not processes: a Celery prefork worker is a daemon, which may have no children.
    """
    with threadpool_limits(limits=1), parallel_config(backend="threading", n_jobs=threads):
        yield


def build_pipeline(name: str, seed: int) -> Pipeline:
    """Give the untrained square root, scaler and model of a recipe."""
    return Pipeline(
        [
            ("root", FunctionTransformer(np.sqrt)),
            ("scaler", StandardScaler()),
            ("model", RECIPES[name].model(seed)),
        ]
    )


def raw_scores(model: Any, features: DataFrame) -> NDArray[np.float64]:
    """Give (n,) scores that grow with the suspicion of malignancy, on the model's own scale."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(features)[:, 1])
    return np.asarray(model.decision_function(features))


def _check_rows_per_class(labels: _Labels, folds: int) -> None:
    malignant = int(labels.sum())
    benign = len(labels) - malignant
    if min(malignant, benign) < 2 * folds:
        raise DatasetError(
            f"Training with {folds} folds needs {2 * folds} rows of each class, found {malignant} "
            f"malignant and {benign} benign. Add rows or lower ML_CV_FOLDS."
        )


def _tune(
    name: str, features: DataFrame, labels: _Labels, cv: RepeatedStratifiedKFold, seed: int
) -> dict[str, Any]:
    """Give the grid's best parameters by mean ROC-AUC; a tie goes to the first in the grid."""
    grid = {f"model__{key}": values for key, values in RECIPES[name].grid.items()}
    search = GridSearchCV(
        build_pipeline(name, seed), grid, scoring="roc_auc", cv=cv, refit=False
    ).fit(features, labels)
    return dict(search.best_params_)


def _with_threshold(
    pipeline: Pipeline, *, folds: int, repeats: int, seed: int
) -> TunedThresholdClassifierCV:
    return TunedThresholdClassifierCV(
        pipeline,
        scoring=make_scorer(f_beta),
        cv=RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed),
        random_state=seed,
    )


def _scoring() -> dict[str, Any]:
    return {SELECTION_SCORE: make_scorer(f_beta), **{name: name for name in METRICS}}


def _calibrate(scores: dict[str, Any], features: DataFrame, labels: _Labels) -> Calibration:
    """Fit probabilities to the scores of the rows that each fold left out."""
    left_out = scores["indices"]["test"]
    raw = [
        raw_scores(model.estimator_, features.iloc[rows])
        for model, rows in zip(scores["estimator"], left_out, strict=True)
    ]
    column = np.concatenate(raw).reshape(-1, 1)
    spread = float(column.std()) or 1.0
    fitted = LogisticRegression().fit(column / spread, labels[np.concatenate(left_out)])
    return Calibration(float(fitted.coef_[0, 0]) / spread, float(fitted.intercept_[0]))


def _cv_table(name: str, scores: dict[str, Any], folds: int) -> DataFrame:
    count = np.arange(len(scores["estimator"]))
    return DataFrame(
        {
            "candidate": name,
            "repeat": count // folds + 1,
            "fold": count % folds + 1,
            "threshold": [float(model.best_threshold_) for model in scores["estimator"]],
            **{metric: scores[f"test_{metric}"] for metric in (SELECTION_SCORE, *METRICS)},
        }
    )

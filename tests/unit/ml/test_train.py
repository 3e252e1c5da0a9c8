"""Training: bounded, repeatable, without leaks."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from joblib import Parallel, delayed
from pandas.testing import assert_frame_equal
from sklearn.metrics import fbeta_score
from threadpoolctl import threadpool_info
from upath import UPath

from ml.artifacts import load_model
from ml.preprocess import Split, features_of, labels_of
from ml.schema import DatasetError
from ml.settings import CANDIDATE_NAMES
from ml.train import (
    BETA,
    METRICS,
    SavedCandidate,
    bounded_threads,
    build_pipeline,
    f_beta,
    train_candidate,
)

FRESH_PROCESS = """
import json, sys
from upath import UPath
from ml.evaluate import compare_candidates
from ml.load import reference_table
from ml.preprocess import split_dataset
from ml.settings import CANDIDATE_NAMES
from ml.train import train_and_save
parts = split_dataset(reference_table(), test_fraction=0.2, seed=42)
saved = [
    train_and_save(n, parts.train, store=UPath("memory://s"), seed=42, folds=2, repeats=1,
                   threads=int(sys.argv[1]))
    for n in CANDIDATE_NAMES
]
result = compare_candidates(saved, parts.test, bootstrap_samples=200, seed=42)
print(json.dumps([[s.to_dict() for s in saved], result.to_dict()]))
"""


def test_fresh_processes_give_the_same_models_and_metrics() -> None:
    """Neither the hash seed nor the number of threads reaches a model's bytes or a metric."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH_PROCESS, threads],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed, threads in (("1", "1"), ("2", "2"))
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [candidate["name"] for candidate in json.loads(outputs[0])[0]] == list(CANDIDATE_NAMES)
    assert outputs[0] == outputs[1]


def test_a_candidate_has_a_row_of_scores_per_fold(split: Split) -> None:
    """The table numbers repeats and folds, and its scores are shares."""
    trained = train_candidate("svm", split.train, seed=42, folds=3, repeats=2)
    table = trained.cv_table
    assert list(zip(table["repeat"], table["fold"], strict=True)) == [
        (repeat, fold) for repeat in (1, 2) for fold in (1, 2, 3)
    ]
    assert table[[*METRICS, "f_beta"]].apply(lambda c: c.between(0.8, 1).all()).all()
    assert trained.cv_score == pytest.approx(table["f_beta"].mean())
    assert trained.cv_metrics["recall"]["std"] == pytest.approx(table["recall"].std(ddof=0))
    assert set(trained.params) == {"C", "gamma"}


def test_the_model_predicts_at_the_tuned_threshold(
    saved: list[SavedCandidate], split: Split
) -> None:
    """The threshold in the result is the one in use."""
    logistic = saved[0]
    model = load_model(logistic.model_file.path, logistic.model_file.sha256)
    features = features_of(split.train)
    above = model.predict_proba(features)[:, 1] >= logistic.threshold
    assert logistic.threshold < 0.5
    assert np.array_equal(model.predict(features), above.astype("int64"))


def test_a_saved_candidate_survives_json(saved: list[SavedCandidate]) -> None:
    """What crosses task borders comes back equal."""
    for candidate in saved:
        again = SavedCandidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
        assert again == candidate
        assert_frame_equal(again.cv_table, candidate.cv_table)


def test_the_stored_model_needs_only_scikit_learn(
    saved: list[SavedCandidate], trained_store: UPath
) -> None:
    """A model outlives changes of this package: its pickle names none of it."""
    for candidate in saved:
        assert candidate.model_file.path.startswith(str(trained_store / "candidates"))
        assert b"ml.train" not in UPath(candidate.model_file.path).read_bytes()


def test_the_scaler_learns_from_training_rows_only(split: Split) -> None:
    """The scaler is a step of the pipeline, so each fold fits its own."""
    for name in CANDIDATE_NAMES:
        steps = [step for step, _ in build_pipeline(name, 42).steps]
        assert steps == ["root", "scaler", "model"]
    half = split.train.head(200)
    fitted = build_pipeline("svm", 42).fit(features_of(half), labels_of(half))
    assert np.allclose(fitted["scaler"].mean_, np.sqrt(features_of(half)).mean())


def test_threshold_score_is_scikit_learns_f_beta() -> None:
    """The quick version gives what the library gives, also where nothing is called malignant."""
    random = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        labels, predicted = random.integers(0, 2, 50), (random.random(50) < share).astype("int64")
        expected = fbeta_score(labels, predicted, beta=BETA, zero_division=0)
        assert f_beta(labels, predicted) == pytest.approx(expected)
    assert f_beta(np.zeros(3, dtype="int64"), np.zeros(3, dtype="int64")) == 0


def test_work_stays_within_its_threads() -> None:
    """Joblib gets the threads in this process; BLAS and OpenMP get one each."""
    with bounded_threads(2):
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())
        seen = Parallel()(delayed(os.getpid)() for _ in range(4))
        threads = set(Parallel()(delayed(threading.get_ident)() for _ in range(50)))
    assert set(seen) == {os.getpid()}
    assert len(threads) <= 2


def _train_in_daemon(split: Split, results: multiprocessing.Queue[str]) -> None:
    trained = train_candidate("svm", split.train, seed=42, folds=2, repeats=1, threads=2)
    results.put(trained.name)


def test_training_works_in_a_daemonic_process(split: Split) -> None:
    """A Celery prefork worker's child is a daemon, which may start no process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_train_in_daemon, args=(split, results), daemon=True)
    process.start()
    assert results.get(timeout=60) == "svm"
    process.join(timeout=60)
    assert process.exitcode == 0


def test_an_unknown_candidate_is_refused(split: Split) -> None:
    """The message lists the known ones."""
    with pytest.raises(
        ValueError, match=r"must be one of logistic_regression, svm, .*'perceptron'"
    ):
        train_candidate("perceptron", split.train, seed=42, folds=2, repeats=1)


def test_too_few_rows_per_class_are_refused(split: Split) -> None:
    """Folds inside folds need rows of each class."""
    with pytest.raises(DatasetError, match=r"5 folds needs 10 rows of each class, found \d malign"):
        train_candidate("svm", split.train.head(15), seed=42, folds=5, repeats=1)

"""The gates: which data is trained on, and who becomes champion."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame, concat
from upath import UPath

from ml.evaluate import Comparison, compare_candidates
from ml.gate import Verdict, challenge, reason_to_skip
from ml.load import AcceptedDataset, gather_dataset, reference_table
from ml.preprocess import Split
from ml.registry import HELD_OUT_FILE, Manifest, Registry
from ml.schema import ID, TARGET
from ml.train import train_and_save


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> UPath:
    """Give a store that holds the reference data."""
    return UPath(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def data(store: UPath, tmp_path_factory: pytest.TempPathFactory) -> AcceptedDataset:
    """Accept the reference data."""
    landing = tmp_path_factory.mktemp("landing")
    return gather_dataset(reference_table(), landing, store, offer_reference=False)


@pytest.fixture(scope="module")
def champion(store: UPath, data: AcceptedDataset, comparison: Comparison, split: Split) -> Manifest:
    """Register the quick candidates' best, trained on the reference data."""
    return register(store, comparison, data.sha256, split.test)


@pytest.fixture(scope="module")
def worse(split: Split, trained_store: UPath) -> Comparison:
    """Train on labels of which a third is wrong."""
    wrong = np.random.default_rng(0).random(len(split.train)) < 0.35
    noisy = split.train.assign(
        **{TARGET: split.train[TARGET].where(~wrong, 1 - split.train[TARGET])}
    )
    saved = train_and_save(
        "logistic_regression", noisy, store=trained_store, seed=42, folds=2, repeats=1
    )
    return compare_candidates([saved], split.test, bootstrap_samples=200, seed=42)


def register(
    store: UPath, comparison: Comparison, data_sha256: str, test: DataFrame, day: int = 1
) -> Manifest:
    held_out = test[[ID]].to_csv(index=False).encode()
    return Registry(store).register(
        comparison,
        run_id=f"run-{day}",
        run_date=datetime(2026, 11, day, tzinfo=UTC),
        data_sha256=data_sha256,
        code_version="abc",
        derived={HELD_OUT_FILE: held_out},
    )


def judge(challenger: Comparison, test: DataFrame, version: str | None, store: UPath) -> Verdict:
    return challenge(challenger, test, version, store, bootstrap_samples=200, seed=42)


def good(comparison: Comparison) -> Comparison:
    """Give the comparison with cross-validated means over the bars: two folds miss them."""
    table = comparison.cv_table.copy()
    table[["accuracy", "precision", "recall", "f1"]] = 0.98
    return replace(comparison, best=replace(comparison.best, cv_table=table))


def test_the_first_model_has_only_the_bars_to_reach(
    comparison: Comparison, worse: Comparison, split: Split, store: UPath
) -> None:
    """Without a champion a good model takes over, and one below the bars does not."""
    assert judge(good(comparison), split.test, None, store) == Verdict(None, {}, 0, [])
    verdict = judge(worse, split.test, None, store)
    assert not verdict.takes_over
    assert verdict.objections == worse.missed_bars


def test_an_equal_challenger_takes_over(
    comparison: Comparison, champion: Manifest, split: Split, store: UPath
) -> None:
    """It knows the newer data; all rows were held out from both."""
    verdict = judge(good(comparison), split.test, champion.version, store)
    assert verdict.takes_over
    assert verdict.rows == 114
    assert {one.value for one in verdict.differences.values()} == {0.0}


def test_a_worse_challenger_does_not(
    worse: Comparison, champion: Manifest, split: Split, store: UPath
) -> None:
    """Even if it reached the bars: each metric that is worse is told with its interval."""
    verdict = judge(good(worse), split.test, champion.version, store)
    assert not verdict.takes_over
    told = " ".join(verdict.objections)
    assert f"accuracy is worse than that of {champion.version} by 0." in told
    assert verdict.differences["accuracy"].high < 0


def test_a_small_difference_within_the_interval_is_no_objection(
    saved: list, champion: Manifest, split: Split, store: UPath
) -> None:
    """The other quick candidate differs by a row or two, which may be chance."""
    other = next(one for one in saved if one.name != champion.candidate)
    rival = compare_candidates([other], split.test, bootstrap_samples=200, seed=42)
    verdict = judge(good(rival), split.test, champion.version, store)
    assert any(one.value != 0 for one in verdict.differences.values())
    assert verdict.takes_over, verdict.objections


def test_rows_that_the_champion_was_trained_on_are_left_out(
    comparison: Comparison, champion: Manifest, split: Split, store: UPath
) -> None:
    """They would flatter it."""
    test = concat([split.test, split.train.head(100)], ignore_index=True)
    assert judge(good(comparison), test, champion.version, store).rows == 114


def test_too_few_common_rows_move_nothing(
    comparison: Comparison, champion: Manifest, split: Split, store: UPath
) -> None:
    """Rows of training alone leave nothing to compare on."""
    verdict = judge(good(comparison), split.train, champion.version, store)
    assert verdict.rows == 0
    assert "needs 10 held-out rows of each class" in verdict.objections[0]


def test_a_champion_that_cannot_be_loaded_moves_nothing(
    comparison: Comparison, split: Split, store: UPath
) -> None:
    """The training goes on, its model is registered, and people decide."""
    verdict = judge(good(comparison), split.test, "20200101T000000Z-00000000", store)
    assert "no comparison: Version '20200101T000000Z-00000000' must have" in verdict.objections[0]


def test_a_verdict_survives_json(
    worse: Comparison, champion: Manifest, split: Split, store: UPath
) -> None:
    """It crosses task borders."""
    verdict = judge(worse, split.test, champion.version, store)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_the_same_data_is_trained_on_once(
    data: AcceptedDataset, champion: Manifest, store: UPath
) -> None:
    """The second trigger for it is told which version knows it."""
    assert reason_to_skip(data, None, store, least_new_rows=1) is None
    reason = reason_to_skip(data, champion, store, least_new_rows=1)
    assert reason == f"Nothing to do: {champion.version} was trained on these very rows."


@pytest.mark.parametrize(("least", "trains"), [(3, True), (4, False)])
def test_new_and_corrected_rows_are_counted(
    champion: Manifest, store: UPath, tmp_path: Path, least: int, trains: bool
) -> None:
    """One row is new and two are corrected; what has gone does not count."""
    table = reference_table().drop(index=[7, 8])
    table.loc[[0, 1], "mean area"] = 1.0
    table = concat([table, table.tail(1).assign(**{ID: 9000})], ignore_index=True)
    gathered = gather_dataset(table, tmp_path, store, offer_reference=False)
    reason = reason_to_skip(gathered, champion, store, least_new_rows=least)
    assert (reason is None) == trains
    if reason:
        assert reason.startswith("Nothing to do yet: 3 rows are new or corrected")


def test_lost_data_of_the_last_model_means_training(
    champion: Manifest, store: UPath, tmp_path: Path
) -> None:
    """What is new cannot be told."""
    gathered = gather_dataset(reference_table().head(500), tmp_path, store, offer_reference=False)
    lost = replace(champion, data_sha256="0" * 64)
    assert reason_to_skip(gathered, lost, store, least_new_rows=500) is None

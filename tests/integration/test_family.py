"""Three days of the DAG family: batches come in, are scored, drift, and models change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from upath import UPath

from ml.artifacts import write_whole
from ml.champion import ChampionPointer
from ml.gate import challenge
from ml.landing import data_files
from ml.load import gather_dataset, reference_table
from ml.preprocess import Split, split_dataset
from ml.schema import FEATURES, TARGET
from ml.synthetic import make_batch
from tests.integration.conftest import RunningStack
from tests.integration.models import register, train_quickly
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
REFERENCE, BATCH = 569, 100  # rows: WDBC, which is landed first, and the default batch
DAYS = [date(2026, 11, day) for day in (2, 3, 4)]
DAG_IDS = ["wdbc_generate", "wdbc_ingest", "wdbc_scoring", "wdbc_training"]
DUE_OR_ACTIVE = """
SELECT dag_id, NULL AS run_id FROM dag
WHERE dag_id = ANY(%s) AND next_dagrun_create_after <= now()
UNION ALL SELECT dag_id, run_id FROM dag_run
WHERE dag_id = ANY(%s) AND state IN ('queued', 'running')
"""
TABLES = "drift, metrics, model_runs, predictions, observations, write_fences"


@dataclass
class Family:
    """The stack, its warehouse, and two registered models, of which the first is the champion."""

    stack: RunningStack
    warehouse: psycopg.Connection[Any]
    split: Split
    data_sha256: str
    champion: str
    other: str

    @property
    def landing(self) -> Path:
        return self.stack.home.landing

    @property
    def store(self) -> UPath:
        return UPath(self.stack.home.artifacts)

    def ask(self, query: str, *values: object) -> Any:
        """Give the first field that a query finds."""
        row = self.warehouse.execute(query, values).fetchone()
        assert row is not None
        return row[0]

    def scored(self, version: str) -> int:
        query = "SELECT count(*) FROM predictions WHERE model_version = %s"
        return int(self.ask(query, version))

    def register(self, candidate: str, run_id: str) -> str:
        """Train a candidate, and register it; give its version."""
        comparison = train_quickly(candidate, self.split.train, self.split.test, self.store)
        return register(
            comparison, self.split.test, self.store, run_id=run_id, data_sha256=self.data_sha256
        )

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        answer = self.stack.client._send("GET", f"/api/v2/dags/{dag_id}/dagRuns")
        return list(answer["dag_runs"])


@pytest.fixture(scope="module")
def family(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    """Give a family without data whose champion knows the reference; leave nothing behind."""
    url = json.loads((stack.home.secrets / "worker/connections.json").read_text())["warehouse"]
    for dag_id in DAG_IDS:
        stack.client.wait_for_dag(dag_id, deadline_s=90)
    wait_for(lambda: _end_due_runs(stack), lambda found: not found, deadline_s=60)
    with psycopg.connect(url, autocommit=True) as warehouse:
        _clear(stack, warehouse)
        split = split_dataset(reference_table(), test_fraction=0.2, seed=42)
        store = UPath(stack.home.artifacts)
        data = gather_dataset(
            reference_table(), tmp_path_factory.mktemp("none"), store, offer_reference=False
        )
        family = Family(stack, warehouse, split, data.sha256, "", "")
        family.champion = family.register("logistic_regression", "first")
        family.other = family.register("svm", "second")
        ChampionPointer(store).promote(family.champion, "for the tests")
        try:
            yield family
        finally:
            _wait_for_quiet(family)
            _clear(stack, warehouse)


def _end_due_runs(stack: RunningStack) -> list[Any]:
    """End the runs that a new stack starts for a cron time of the last hours; give what was left."""
    found = stack.metadata(DUE_OR_ACTIVE, DAG_IDS, DAG_IDS)
    for dag_id, run_id in found:
        if run_id:
            path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
            stack.client._send("PATCH", path, json={"state": "success"})
    return found


def _clear(stack: RunningStack, warehouse: psycopg.Connection[Any]) -> None:
    warehouse.execute(f"TRUNCATE {TABLES}")
    for place in (stack.home.landing, stack.home.artifacts / "models"):
        shutil.rmtree(place, ignore_errors=True)
    stack.home.landing.mkdir()


def _wait_for_quiet(family: Family) -> None:
    """Wait until the runs that the stored rows have started are over."""

    def busy() -> list[str]:
        return [
            run["dag_run_id"]
            for dag_id in ("wdbc_ingest", "wdbc_scoring", "wdbc_training")
            for run in family.runs(dag_id)
            if run["state"] in ("queued", "running")
        ]

    wait_for(busy, lambda found: not found, deadline_s=120)


def test_a_file_is_waited_for_without_a_slot_then_stored_scored_and_measured(family: Family):
    """Day 1: ingest defers, the day's batch lands, and every row has a prediction and drift."""
    stack = family.stack
    run_id = stack.client.trigger("wdbc_ingest", logical_date=_at(DAYS[0]))
    wait_for(
        lambda: stack.tasks("wdbc_ingest", run_id)["wait_for_file"].state,
        lambda state: state == "deferred",
        deadline_s=60,
    )
    generated = stack.run("wdbc_generate", logical_date=_at(DAYS[0]))
    assert stack.client.result("wdbc_generate", generated, "generate") == "synthetic-20261102.csv"
    assert stack.wait_for_end("wdbc_ingest", run_id) == "success"
    assert family.ask("SELECT count(*) FROM observations") == REFERENCE + BATCH
    ingested = {file.name for file in data_files(family.landing / "ingested")}
    assert ingested == {"wdbc.csv", "synthetic-20261102.csv"}
    wait_for(
        lambda: family.scored(family.champion),
        lambda rows: rows == REFERENCE + BATCH,
        deadline_s=120,
    )
    assert family.ask("SELECT count(*) FROM drift") == 2 * (len(FEATURES) + 1)
    assert _accuracy(family) > 0.9


def test_a_bad_file_goes_into_quarantine_and_the_others_are_stored(family: Family):
    """Day 2: the run fails where people see it; the good batch is in all the same."""
    bad = make_batch(DAYS[1], rows=30, seed=1).assign(**{"mean area": -1.0})
    _land(family, "bad.csv", bad)
    family.stack.run("wdbc_generate", logical_date=_at(DAYS[1]))
    run_id = family.stack.run("wdbc_ingest", logical_date=_at(DAYS[1]))
    states = {name: t.state for name, t in family.stack.tasks("wdbc_ingest", run_id).items()}
    assert states == {
        "wait_for_file": "success",
        "validate": "success",
        "store": "success",
        "check_quarantine": "failed",
    }
    assert family.ask("SELECT count(*) FROM observations") == REFERENCE + 2 * BATCH
    assert family.ask("SELECT count(*) FROM observations WHERE source = 'bad.csv'") == 0
    assert data_files(family.landing) == []
    faults = (family.landing / "quarantine/bad.csv.faults.txt").read_text()
    assert "column 'mean area': negative values in 30 rows" in faults
    assert (family.landing / "quarantine/bad.csv").read_bytes() == bad.to_csv(index=False).encode()


def test_a_drifted_batch_stands_out_and_rows_that_are_known_change_nothing(family: Family):
    """Day 3: its stability index is high, that of the batches before is not.

    The first day's file lies there again, as after a kill between commit and move.
    """
    stored_at = "SELECT max(stored_at) FROM observations WHERE source = 'synthetic-20261102.csv'"
    before = family.ask(stored_at)
    again = family.landing / "ingested/synthetic-20261102.csv"
    shutil.copy(again, family.landing)
    drifted = make_batch(DAYS[2], rows=BATCH, seed=42)
    drifted[list(FEATURES[:10])] *= 1.5
    _land(family, "drifted.csv", drifted)
    family.stack.run("wdbc_ingest", logical_date=_at(DAYS[2]))
    assert family.ask("SELECT count(*) FROM observations") == REFERENCE + 3 * BATCH
    assert family.ask(stored_at) == before
    wait_for(
        lambda: family.scored(family.champion),
        lambda rows: rows == REFERENCE + 3 * BATCH,
        deadline_s=120,
    )
    found = family.warehouse.execute("SELECT batch, avg(psi), max(psi) FROM drift GROUP BY batch")
    psi = {batch: (mean, highest) for batch, mean, highest in found.fetchall()}
    assert set(psi) == {
        "wdbc.csv",
        "synthetic-20261102.csv",
        "synthetic-20261103.csv",
        "drifted.csv",
    }
    assert psi["drifted.csv"][1] > 1
    assert all(mean < 0.2 for batch, (mean, _) in psi.items() if batch != "drifted.csv"), psi


def test_too_few_new_rows_start_no_training(family: Family):
    """Stored rows started a run of training each time; `load` skipped it."""
    asset_runs = wait_for(
        lambda: [r for r in family.runs("wdbc_training") if r["run_type"] == "asset_triggered"],
        lambda runs: bool(runs) and all(r["state"] in ("success", "failed") for r in runs),
        deadline_s=120,
    )
    for run in asset_runs:
        tasks = family.stack.tasks("wdbc_training", run["dag_run_id"])
        assert tasks["load"].state == "skipped"
        assert tasks["register"].state == "skipped"


def test_a_worse_challenger_leaves_the_champion(family: Family):
    """Trained on labels of which a third is wrong, it is refused by the bars and by comparison."""
    wrong = np.random.default_rng(0).random(len(family.split.train)) < 0.35
    train = family.split.train
    noisy = train.assign(**{TARGET: train[TARGET].where(~wrong, 1 - train[TARGET])})
    worse = train_quickly("logistic_regression", noisy, family.split.test, family.store)
    verdict = challenge(
        worse, family.split.test, family.champion, family.store, bootstrap_samples=200, seed=42
    )
    assert not verdict.takes_over
    assert any("accuracy is worse than that of" in line for line in verdict.objections)
    assert ChampionPointer(family.store).current() == family.champion


def test_a_version_named_by_the_variable_is_scored_with(family: Family):
    """MODEL_VERSION comes before the champion; the champion's predictions stay."""
    variable = {"key": "MODEL_VERSION", "value": family.other}
    family.stack.client._send("POST", "/api/v2/variables", json=variable)
    try:
        family.stack.run("wdbc_scoring")
    finally:
        family.stack.client._http.delete("/api/v2/variables/MODEL_VERSION").raise_for_status()
    assert family.scored(family.other) == family.scored(family.champion) == REFERENCE + 3 * BATCH


def test_rollback_brings_the_former_champion_back(family: Family):
    """`make models`: promote, roll back; what it has scored is not scored again."""
    assert family.stack.command("models", "promote", family.other).returncode == 0
    assert ChampionPointer(family.store).current() == family.other
    back = family.stack.command("models", "rollback")
    assert back.stdout == f"champion: {family.champion}\n"
    run_id = family.stack.run("wdbc_scoring")
    assert family.stack.tasks("wdbc_scoring", run_id)["score"].state == "skipped"


def _at(day: date) -> str:
    return f"{day}T00:00:00Z"


def _land(family: Family, name: str, table: Any) -> None:
    write_whole(UPath(family.landing / name), table.to_csv(index=False).encode())


def _accuracy(family: Family) -> float:
    query = "SELECT avg((label = target)::int) FROM predictions JOIN observations USING (observation_id)"
    return float(family.ask(query))

"""The training pipeline through the real scheduler, Redis, Celery workers and Postgres."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import psycopg
import pytest
from upath import UPath

from ml.champion import ChampionPointer
from ml.load import reference_table
from ml.preprocess import features_of, labels_of, split_dataset
from ml.registry import Registry
from tests.integration.conftest import RunningStack
from tests.integration.models import register, train_quickly

pytestmark = pytest.mark.integration
DAG = "wdbc_training"


@dataclass(frozen=True)
class SecondRun:
    """A training on the same data, against a champion that cannot be beaten; what it printed."""

    run_id: str
    output: str
    champion: str


@pytest.fixture(scope="module")
def second_run(stack: RunningStack, run_id: str) -> Iterator[SecondRun]:
    """Train again while a model is champion that has learnt the held-out rows by heart."""
    store = UPath(stack.home.artifacts)
    first = stack.client.result(DAG, run_id, "register")
    test = split_dataset(reference_table(), test_fraction=0.2, seed=42).test
    by_heart = train_quickly("gradient_boosting", test, test, store)
    champion = register(by_heart, test, store, run_id="by heart", data_sha256=first["data_sha256"])
    pointer = ChampionPointer(store)
    pointer.promote(champion, "for the tests")
    try:
        output = stack.command("train").stdout
        [second] = re.findall(f"^Run (.+) of {DAG}$", output, re.MULTILINE)
        yield SecondRun(second, output, champion)
    finally:
        pointer.rollback()


@pytest.fixture(scope="module")
def run_id(stack: RunningStack) -> Iterator[str]:
    """Train once for this module, on the file in the landing folder: none is ingested."""
    stack.client.wait_for_dag("wdbc_ingest", deadline_s=90)
    stack.set_paused("wdbc_ingest", True)
    try:
        run_id = stack.run(DAG)
        failed = [task for task in stack.client.tasks(DAG, run_id) if task.state != "success"]
        assert not failed, stack.client.log_tail(DAG, run_id, failed[0])
        yield run_id
    finally:
        stack.set_paused("wdbc_ingest", False)


def test_training_ran_on_cpu_train_and_nothing_else_did(stack: RunningStack, run_id: str):
    """Each task ran on a worker of the queue that its DAG names."""
    queues = {"train": "cpu_train", "load": "pg_io", "record": "pg_io"}
    for label, task in stack.tasks(DAG, run_id).items():
        assert task.queue == queues.get(task.task_id, "default"), label
        assert task.worker.startswith("worker-cpu-train-") == (task.task_id == "train"), label


def test_every_candidate_was_a_task_of_its_own(stack: RunningStack, run_id: str):
    """Four mapped tasks, one per candidate."""
    assert sum(label.startswith("train[") for label in stack.tasks(DAG, run_id)) == 4


def test_registered_model_clears_the_bar(stack: RunningStack, run_id: str):
    """Cross-validated metrics reach what is promised, and the held-out rows do not contradict."""
    manifest = stack.client.result(DAG, run_id, "register")
    for name, bar in manifest["bars"].items():
        assert manifest["cv_metrics"][name]["mean"] >= bar, name
        assert manifest["metrics"][name]["high"] >= bar, name


def test_registered_model_has_a_report_a_place_in_the_line_and_its_figures_in_the_warehouse(
    stack: RunningStack, run_id: str
):
    """What comes after training: the page beside the model, the champion's pointer, two tables."""
    manifest = stack.client.result(DAG, run_id, "register")
    folder = stack.home.artifacts / "models"
    report = (folder / manifest["version"] / "report.html").read_bytes()
    assert hashlib.sha256(report).hexdigest() == manifest["files"]["report.html"]["sha256"]
    line = json.loads((folder / "champion.json").read_text())["line"]
    assert manifest["version"] in [reign["version"] for reign in line]
    url = json.loads((stack.home.secrets / "worker/connections.json").read_text())["warehouse"]
    with psycopg.connect(url) as connection:
        runs = "SELECT count(*) FROM model_runs WHERE model_version = %s"
        figures = "SELECT count(*) FROM metrics WHERE model_version = %s"
        assert connection.execute(runs, [manifest["version"]]).fetchone() == (1,)
        assert connection.execute(figures, [manifest["version"]]).fetchone() == (10,)


def test_registered_model_can_be_loaded_and_predicts(stack: RunningStack, run_id: str):
    """What the registry hands out passes its checksum and works on the published table."""
    registered = stack.client.result(DAG, run_id, "register")
    model = Registry(UPath(stack.home.artifacts)).load_model(registered["version"])
    table = reference_table()
    assert (model.predict(features_of(table)) == labels_of(table)).mean() > 0.95


@pytest.fixture(scope="module")
def first_files(stack: RunningStack, run_id: str) -> dict[str, str]:
    """Give the checksum of each file of the first version, before there is a second."""
    return _checksums(_folder(stack, run_id))


@pytest.mark.either_path
def test_second_run_gives_the_same_model_and_leaves_the_first_untouched(
    stack: RunningStack, run_id: str, first_files: dict[str, str], second_run: SecondRun
):
    """Same data, same seed: a new version of the same model; the old folder keeps every byte."""
    first = stack.client.result(DAG, run_id, "register")
    second = stack.client.result(DAG, second_run.run_id, "register")
    assert second["files"]["model.joblib"] == first["files"]["model.joblib"]
    assert second["metrics"] == first["metrics"]
    assert second["version"] != first["version"]
    assert _checksums(_folder(stack, run_id)) == first_files


@pytest.mark.either_path
def test_a_worse_challenger_leaves_the_champion_and_the_run_says_why(
    stack: RunningStack, second_run: SecondRun
):
    """Registered and not promoted: its verdict, its report, the warehouse and `make train` say so."""
    champion = second_run.champion
    verdict = stack.client.result(DAG, second_run.run_id, "challenge")
    assert (verdict["champion"], verdict["takes_over"]) == (champion, False)
    [why] = [line for line in verdict["objections"] if line.startswith("accuracy is worse than")]
    assert stack.client.result(DAG, second_run.run_id, "promote") == champion
    assert ChampionPointer(UPath(stack.home.artifacts)).current() == champion
    assert f"It does not become the champion, {champion} stays:\n" in second_run.output
    assert f"  {why}\n" in second_run.output
    report = (_folder(stack, second_run.run_id) / "report.html").read_text()
    assert "It does not take over" in report
    assert f"<li>{escape(why)}</li>" in report
    [row] = stack.warehouse(
        "SELECT details->'objections' AS objections FROM model_runs WHERE run_id = %s",
        second_run.run_id,
    )
    assert row.objections == verdict["objections"]


@pytest.mark.either_path
def test_bad_table_is_refused_with_its_faults_and_the_last_good_data_stays(
    stack: RunningStack, run_id: str
):
    """A wrong cell fails `load` at once; `make train` shows why, and nothing is registered."""
    current = stack.home.artifacts / "datasets/current.json"
    good, versions = current.read_text(), sorted(_versions(stack))
    table = stack.home.landing / "wdbc.csv"
    kept = table.with_suffix(".kept")
    shutil.copy(table, kept)
    try:
        _spoil(table)
        trained = stack.command("train")
    finally:
        kept.replace(table)
    assert trained.returncode == 1
    assert "load failed on worker-" in trained.stdout
    assert "mean radius" in trained.stdout
    assert "not a number" in trained.stdout
    assert "load: up_for_retry" not in trained.stdout, "bad input does not heal by itself"
    assert current.read_text() == good
    assert sorted(_versions(stack)) == versions


@pytest.mark.either_path
def test_one_task_can_be_tried_from_the_command_line(stack: RunningStack, run_id: str):
    """`make airflow ARGS="tasks test …"` runs one task outside the scheduler.

    Airflow makes a run for it, which the scheduler of an active DAG takes for one of its own.
    """
    stack.set_paused(DAG, True)
    try:
        tried = stack.command("airflow", "tasks", "test", DAG, "load")
    finally:
        stack.set_paused(DAG, False)
    assert tried.returncode == 0, tried.stdout[-2000:] + tried.stderr[-2000:]


def _folder(stack: RunningStack, run_id: str) -> Path:
    """Give the folder of the version that a run has registered."""
    version = stack.client.result(DAG, run_id, "register")["version"]
    return stack.home.artifacts / "models" / version


def _versions(stack: RunningStack) -> list[str]:
    return [folder.name for folder in (stack.home.artifacts / "models").iterdir()]


def _checksums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def _spoil(table: Path) -> None:
    lines = table.read_text().splitlines()
    column = lines[0].split(",").index("mean radius")
    cells = lines[5].split(",")
    cells[column] = "not a number"
    lines[5] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")

"""### Train the breast-cancer classifier

wait_for_data → load → preprocess → train (one task per candidate, on `cpu_train`) → evaluate →
challenge → register → promote, record

| task | does | queue and pool |
|---|---|---|
| wait_for_data | where the stack lands no data by itself (`ML_SYNTHETIC_ROWS=0`), waits for the first file to be ingested, without a worker slot | |
| load | gathers what to train on: the labelled observations of the warehouse; as long as nothing was ingested, the newest file in the landing folder, where WDBC is put if there is none. A bad file is refused with each fault listed, and the last good data stays current | pg_io |
| preprocess | holds out a stratified test part, by a seed that is fixed beforehand | |
| train | tunes a candidate by repeated cross-validation, fits it with its decision threshold | cpu_train |
| evaluate | takes the best candidate and measures it on the held-out rows | |
| challenge | holds it against the champion on the same held-out rows; `ml.gate.challenge` has the rule | |
| register | keeps model, metrics, cross-validation table and report as an immutable version | |
| promote | makes it the champion, if it may be | |
| record | its figures into `model_runs` and `metrics` | pg_io |

DataFrames travel through XCom; models by path and SHA-256.

Runs every Monday at 03:00 UTC, and whenever `wdbc_ingest` has stored rows. **Each data is trained on
once**: `load` skips the run if the newest model was trained on these very rows, or, where new rows
started it, while fewer than `ML_RETRAIN_ROWS` are new or corrected. Runs wait for each other, so of
two triggers for the same data the second is a skip. A run by hand always trains: `make train`.

The champion is what `wdbc_scoring` uses. `make models ARGS="list"` shows it, `ARGS="rollback"` goes
back to the one before, `ARGS="promote VERSION"` takes any.
"""

from __future__ import annotations

import os
from datetime import timedelta
from glob import escape
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from celery_stack import metrics
from celery_stack.file_wait import FileWait
from celery_stack.sla import run_sla, task_sla
from celery_stack.warehouse import read_rows, write_rows
from ml.landing import INGESTED, has_data
from ml.settings import CANDIDATE_NAMES, MLSettings

if TYPE_CHECKING:
    from pandas import DataFrame

OBSERVATIONS = Asset("wdbc_observations")
LABELLED = "SELECT * FROM observations WHERE target IS NOT NULL"


def look_for_data() -> str | None:
    """Give the glob to wait for, None if there is data, or the stack lands some by itself."""
    settings = MLSettings.from_env(os.environ)
    if settings.ML_SYNTHETIC_ROWS or has_data(settings.LANDING_DIR):
        return None
    return f"{escape(str(settings.LANDING_DIR / INGESTED))}/*"


@dag(
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 3 * * 1", timezone="UTC"), assets=OBSERVATIONS
    ),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    deadline=[run_sla(hours=2), task_sla("train", hours=1)],
    default_args={
        "owner": "machine-learning",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(minutes=10),
    },
    tags=["wdbc", "training"],
    doc_md=__doc__,
)
def wdbc_training() -> None:  # noqa: C901 - it counts the steps' branches as its own
    """Wire the steps; each loads, calls one function of `ml`, and stores."""

    wait_for_data = FileWait(
        task_id="wait_for_data",
        look=look_for_data,
        poke_interval=5,
        timeout=timedelta(hours=12).total_seconds(),
        soft_fail=True,
    )

    @task(multiple_outputs=True, queue="pg_io", pool="pg_io")
    def load(**context: Any) -> dict[str, Any]:
        from upath import UPath

        from ml.gate import reason_to_skip
        from ml.load import gather_dataset
        from ml.registry import Registry
        from ml.schema import COLUMNS, DatasetError

        settings = MLSettings.from_env(os.environ)
        store = UPath(settings.ARTIFACTS_URL)
        known = read_rows(LABELLED)[list(COLUMNS)]
        cause = context["dag_run"].run_type
        try:
            data = gather_dataset(
                known,
                settings.LANDING_DIR,
                store,
                offer_reference=settings.ML_SYNTHETIC_ROWS > 0,
            )
        except DatasetError as error:
            if cause != "manual" and not known.empty:  # what was ingested is good, but too little
                raise AirflowSkipException(str(error)) from error
            raise AirflowFailException(str(error)) from error  # a bad file does not heal by itself
        if cause != "manual":
            least = settings.ML_RETRAIN_ROWS if cause == "asset_triggered" else 1
            latest = Registry(store).latest()
            if reason := reason_to_skip(data, latest, store, least_new_rows=least):
                raise AirflowSkipException(reason)
        return {"table": data.table, "sha256": data.sha256}

    @task(multiple_outputs=True)
    def preprocess(table: DataFrame) -> dict[str, DataFrame]:
        from ml.preprocess import split_dataset

        settings = MLSettings.from_env(os.environ)
        split = split_dataset(table, test_fraction=settings.ML_TEST_FRACTION, seed=settings.ML_SEED)
        return split.to_dict()

    @task(
        queue="cpu_train",
        pool="cpu_train",
        execution_timeout=timedelta(hours=1),
        map_index_template="{{ task.op_kwargs['name'] }}",
    )
    def train(name: str, rows: DataFrame) -> dict[str, Any]:
        from upath import UPath

        from ml.train import train_and_save

        settings, began = MLSettings.from_env(os.environ), monotonic()
        trained = train_and_save(
            name,
            rows,
            store=UPath(settings.ARTIFACTS_URL),
            seed=settings.ML_SEED,
            folds=settings.ML_CV_FOLDS,
            repeats=settings.ML_CV_REPEATS,
            threads=settings.CPU_TRAIN_THREADS,
        )
        metrics.timing("ml.training", monotonic() - began, candidate=name)
        return trained.to_dict()

    @task
    def evaluate(trained: list[dict[str, Any]], rows: DataFrame) -> dict[str, Any]:
        from ml.evaluate import compare_candidates
        from ml.train import SavedCandidate

        settings = MLSettings.from_env(os.environ)
        return compare_candidates(
            [SavedCandidate.from_dict(one) for one in trained],
            rows,
            bootstrap_samples=settings.ML_BOOTSTRAP_SAMPLES,
            seed=settings.ML_SEED,
        ).to_dict()

    @task
    def challenge(comparison: dict[str, Any], rows: DataFrame) -> dict[str, Any]:
        from upath import UPath

        from ml.champion import ChampionPointer
        from ml.evaluate import Comparison
        from ml.gate import challenge

        settings = MLSettings.from_env(os.environ)
        store = UPath(settings.ARTIFACTS_URL)
        return challenge(
            Comparison.from_dict(comparison),
            rows,
            ChampionPointer(store).current(),
            store,
            bootstrap_samples=settings.ML_BOOTSTRAP_SAMPLES,
            seed=settings.ML_SEED,
        ).to_dict()

    @task
    def register(
        comparison: dict[str, Any],
        verdict: dict[str, Any],
        rows: DataFrame,
        data_sha256: str,
        **context: Any,
    ) -> dict[str, Any]:
        from upath import UPath

        from ml.evaluate import Comparison
        from ml.gate import Verdict
        from ml.registry import Registry
        from ml.report import render_report

        settings = MLSettings.from_env(os.environ)
        run, best = context["dag_run"], Comparison.from_dict(comparison)
        origin = {"data_sha256": data_sha256, "code_version": settings.CODE_VERSION}
        report = render_report(
            best,
            Verdict.from_dict(verdict),
            rows,
            facts={
                "run": run.run_id,
                "data": f"SHA-256 {data_sha256}",
                "code": settings.CODE_VERSION,
            },
            seed=settings.ML_SEED,
        )
        return (
            Registry(UPath(settings.ARTIFACTS_URL))
            .register(best, run_id=run.run_id, run_date=run.run_after, derived=report, **origin)
            .to_dict()
        )

    @task
    def promote(manifest: dict[str, Any], verdict: dict[str, Any]) -> str | None:
        from upath import UPath

        from ml.champion import ChampionPointer

        pointer = ChampionPointer(UPath(MLSettings.from_env(os.environ).ARTIFACTS_URL))
        if verdict["takes_over"]:
            former = verdict["champion"]
            why = f"not worse than {former}" if former else "the first to reach the bars"
            pointer.promote(manifest["version"], why)
        champion = pointer.current()
        if champion:
            metrics.gauge("ml.champion_seen", time(), version=champion)
        return champion

    @task(queue="pg_io", pool="pg_io")
    def record(manifest: dict[str, Any], verdict: dict[str, Any], **context: Any) -> None:
        from ml.registry import Manifest, figures_of, summary_of

        made = Manifest.from_dict(manifest)
        run = {**summary_of(made, verdict), "dag_id": context["dag"].dag_id}
        write_rows([run], "model_runs", keys=["model_version"])
        figures = figures_of(made)
        write_rows(figures, "metrics", keys=["model_version", "metric"])
        for figure in figures:
            metrics.gauge("ml.score", figure["value"], score=figure["metric"])

    loaded = load()
    wait_for_data >> loaded
    split = preprocess(loaded["table"])
    trained = train.partial(rows=split["train"]).expand(name=list(CANDIDATE_NAMES))
    comparison = evaluate(trained, split["test"])
    verdict = challenge(comparison, split["test"])
    registered = register(comparison, verdict, split["test"], loaded["sha256"])
    promote(registered, verdict)
    record(registered, verdict)


wdbc_training()

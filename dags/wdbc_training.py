"""### Train the breast-cancer classifier

load → preprocess → train (one task per candidate, on `cpu_train`) → evaluate → register

| task | does | queue |
|---|---|---|
| load | checks the newest table in the landing folder; a bad one is refused with each fault listed, and the last good data stays current | default |
| preprocess | holds out a stratified test part, by a seed that is fixed beforehand | default |
| train | tunes a candidate by repeated cross-validation, fits it with its decision threshold | cpu_train |
| evaluate | takes the best candidate and measures it on the held-out rows | default |
| register | keeps model, metrics and cross-validation table as an immutable version | default |

DataFrames travel through XCom; models by path and SHA-256. Runs every Monday at 03:00 UTC; for a
run at once: `make train`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException

from ml.settings import CANDIDATE_NAMES, MLSettings

if TYPE_CHECKING:
    from pandas import DataFrame


@dag(
    schedule=CronTriggerTimetable("0 3 * * 1", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
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
def wdbc_training() -> None:
    """Wire the steps; each loads, calls one function of `ml`, and stores."""

    @task(multiple_outputs=True)
    def load() -> dict[str, Any]:
        from upath import UPath

        from ml.load import accept_dataset, export_reference
        from ml.schema import DatasetError

        settings = MLSettings.from_env(os.environ)
        source = export_reference(settings.LANDING_DIR)
        try:
            accepted = accept_dataset(source, UPath(settings.ARTIFACTS_URL))
        except DatasetError as error:
            raise AirflowFailException(str(error)) from error  # a bad file does not heal by itself
        return {"table": accepted.table, "sha256": accepted.sha256}

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

        settings = MLSettings.from_env(os.environ)
        return train_and_save(
            name,
            rows,
            store=UPath(settings.ARTIFACTS_URL),
            seed=settings.ML_SEED,
            folds=settings.ML_CV_FOLDS,
            repeats=settings.ML_CV_REPEATS,
            threads=settings.CPU_TRAIN_THREADS,
        ).to_dict()

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
    def register(comparison: dict[str, Any], data_sha256: str, **context: Any) -> dict[str, Any]:
        from upath import UPath

        from ml.evaluate import Comparison
        from ml.registry import Registry

        settings = MLSettings.from_env(os.environ)
        return (
            Registry(UPath(settings.ARTIFACTS_URL))
            .register(
                Comparison.from_dict(comparison),
                run_id=context["run_id"],
                run_date=context["dag_run"].run_after,
                data_sha256=data_sha256,
                code_version=settings.CODE_VERSION,
            )
            .to_dict()
        )

    loaded = load()
    split = preprocess(loaded["table"])
    trained = train.partial(rows=split["train"]).expand(name=list(CANDIDATE_NAMES))
    register(evaluate(trained, split["test"]), loaded["sha256"])


wdbc_training()

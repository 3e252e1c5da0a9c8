"""### Score what the model in use has not scored yet

The model is the champion, or the version that the Airflow Variable `MODEL_VERSION` names. Every
observation that has no prediction of that version gets one in `predictions`: `score` is the
probability of malignancy, calibrated at training; `label` is coded as `target` (0 malignant, 1
benign) and decided by the threshold that training tuned. A new champion therefore scores everything
once; what older versions said stays.

`drift` gets the population stability index of each feature and of the score, by file, against the
data that the model was trained on: above 0.25 a marked change. It is written first, so that a task
killed between the two finds the same rows again.

Runs daily at 04:00 UTC, and whenever `wdbc_ingest` has stored rows. No champion yet, or nothing
new: the run is a skip.
"""

from __future__ import annotations

import os
from datetime import timedelta
from time import time
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, Variable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from celery_stack import metrics
from celery_stack.sla import run_sla
from celery_stack.warehouse import read_rows, write_rows
from ml.settings import MLSettings

OBSERVATIONS = Asset("wdbc_observations")
UNSCORED = """
SELECT observations.* FROM observations
LEFT JOIN predictions
    ON predictions.observation_id = observations.observation_id
    AND predictions.model_version = %(version)s
WHERE predictions.observation_id IS NULL
ORDER BY observations.observation_id
"""


@dag(
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 4 * * *", timezone="UTC"), assets=OBSERVATIONS
    ),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    deadline=[run_sla(hours=1)],
    default_args={
        "owner": "machine-learning",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(minutes=10),
    },
    tags=["wdbc", "scoring"],
    doc_md=__doc__,
)
def wdbc_scoring() -> None:
    """Wire the one step."""

    @task(queue="pg_io", pool="pg_io")
    def score() -> dict[str, Any]:
        from upath import UPath

        from ml.champion import ChampionPointer
        from ml.score import score_batches

        store = UPath(MLSettings.from_env(os.environ).ARTIFACTS_URL)
        version = Variable.get("MODEL_VERSION", default=None) or ChampionPointer(store).current()
        if version is None:
            raise AirflowSkipException("There is no champion yet. Train one: make train")
        metrics.gauge("ml.champion_seen", time(), version=version)
        rows = read_rows(UNSCORED, {"version": version})
        if rows.empty:
            raise AirflowSkipException(f"Nothing new: {version} has scored every observation.")
        predictions, drift = score_batches(rows, version, store)
        write_rows(drift, "drift", keys=["model_version", "batch", "feature"])
        write_rows(predictions, "predictions", keys=["observation_id", "model_version"])
        for feature, psi in drift.groupby("feature")["psi"].max().items():
            metrics.gauge("ml.drift_psi", psi, feature=feature)
        return {"version": version, "rows": len(predictions), "highest_psi": drift["psi"].max()}

    score()


wdbc_scoring()

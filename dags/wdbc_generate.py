"""### Land a synthetic batch

A labelled batch drawn from the distribution of WDBC arrives in the landing folder each day at 01:00
UTC, so that the stack has data where none comes by itself. The day decides every value: a retry or
a second run of the same day writes the same file. Ids are negative, which real ones are not. Where
no data ever arrived, WDBC itself is landed first. Files appear whole.

`ML_SYNTHETIC_ROWS` sets the rows of a batch; 0 is for stacks with real data: the run is a skip.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from celery_stack.sla import run_sla
from ml.landing import has_data
from ml.settings import MLSettings


@dag(
    schedule=CronTriggerTimetable("0 1 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    deadline=[run_sla(minutes=30)],
    default_args={
        "owner": "machine-learning",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(minutes=5),
    },
    tags=["wdbc", "data"],
    doc_md=__doc__,
)
def wdbc_generate() -> None:
    """Wire the one step."""

    @task
    def generate(**context: Any) -> str:
        settings = MLSettings.from_env(os.environ)
        if not settings.ML_SYNTHETIC_ROWS:
            raise AirflowSkipException("ML_SYNTHETIC_ROWS is 0: real data comes by itself.")
        from upath import UPath

        from ml.artifacts import write_whole
        from ml.load import export_reference
        from ml.synthetic import batch_name, make_batch

        run = context["dag_run"]
        day = (run.logical_date or run.run_after).date()
        batch = make_batch(day, rows=settings.ML_SYNTHETIC_ROWS, seed=settings.ML_SEED)
        if not has_data(settings.LANDING_DIR):
            export_reference(settings.LANDING_DIR)
        path = settings.LANDING_DIR / batch_name(day)
        write_whole(UPath(path), batch.to_csv(index=False).encode())
        return path.name

    generate()


wdbc_generate()

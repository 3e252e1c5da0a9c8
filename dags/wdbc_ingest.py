"""### Take what has landed into the warehouse

wait_for_file → validate → store, and check_quarantine

| task | does |
|---|---|
| wait_for_file | waits for a file in the landing folder, without a worker slot; after nearly six hours the run is a skip |
| validate | moves each bad file to `quarantine/`, its faults beside it in `<name>.faults.txt` |
| store | upserts the rows of the good files into `observations` (queue and pool `pg_io`), then moves them to `ingested/` |
| check_quarantine | fails if a file went into quarantine, so that somebody looks; the good files are stored all the same |

**What a file may be**: a CSV with the published column names, or the raw UCI form; any number of
rows. Write it under a name that begins with a dot and rename it; else it is taken once it has not
changed for two seconds. An observation whose id is known replaces the one before; files are taken
in the order of their age.

**Idempotent**: a file leaves the landing folder only after its rows are committed. Killed before
that, the next try stores the same rows again. A corrected file goes into the landing folder anew.

Emits the asset `wdbc_observations`. Runs every six hours from 00:15 UTC, and one run waits at a
time: a file is seen within seconds, or, where a run has just taken another, by the next one.
"""

from __future__ import annotations

import os
from datetime import timedelta
from glob import escape
from typing import Any

from airflow.sdk import Asset, CronTriggerTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from celery_stack.file_wait import FileWait
from celery_stack.warehouse import write_rows
from ml.landing import WAITING, data_files, mark_ingested
from ml.settings import MLSettings

OBSERVATIONS = Asset("wdbc_observations")


def look_for_file() -> str | None:
    """Give the glob to wait for, None if a file is there."""
    landing = MLSettings.from_env(os.environ).LANDING_DIR
    return None if data_files(landing) else f"{escape(str(landing))}/{WAITING}"


@dag(
    schedule=CronTriggerTimetable("15 */6 * * *", timezone="UTC"),
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
    tags=["wdbc", "data"],
    doc_md=__doc__,
)
def wdbc_ingest() -> None:
    """Wire the steps."""
    wait_for_file = FileWait(
        task_id="wait_for_file",
        look=look_for_file,
        poke_interval=5,
        timeout=timedelta(hours=5, minutes=50).total_seconds(),
        soft_fail=True,
    )

    @task(multiple_outputs=True)
    def validate() -> dict[str, Any]:
        from ml.load import sift_landing

        return sift_landing(MLSettings.from_env(os.environ).LANDING_DIR).to_dict()

    @task(queue="pg_io", pool="pg_io", outlets=[OBSERVATIONS])
    def store(good: list[str]) -> dict[str, int]:
        from ml.load import read_batch
        from ml.schema import ID

        if not good:
            raise AirflowSkipException("No file to store.")
        stored = {}
        for path in data_files(MLSettings.from_env(os.environ).LANDING_DIR):
            if path.name in good:
                written = write_rows(read_batch(path), "observations", keys=[ID])
                stored[path.name] = written.rows
                mark_ingested(path)
        return stored

    @task
    def check_quarantine(faults: dict[str, str]) -> None:
        if faults:
            listed = "\n\n".join(faults.values())
            raise AirflowFailException(
                f"Expected good files, found faults in {', '.join(faults)}, now in the landing "
                f"folder's quarantine/:\n\n{listed}"
            )

    validated = validate()
    wait_for_file >> validated
    store(validated["good"])
    check_quarantine(validated["faults"])


wdbc_ingest()

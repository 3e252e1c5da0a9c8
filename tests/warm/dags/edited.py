"""Gives the versions of the code that its task was parsed with; holds on until it is released."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import helper_of_edited
from airflow.sdk import dag, task

from celery_stack import retries
from ml import probe_of_edited

VERSIONS = {
    "dag": "old",
    "helper": helper_of_edited.VERSION,
    "ml": probe_of_edited.VERSION,
    "plugin": getattr(retries, "VERSION", "none"),
}


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    doc_md=__doc__,
    default_args={"owner": "tests", "execution_timeout": timedelta(seconds=120)},
    params={"release": ""},
)
def edited() -> None:
    """Wire the task."""

    @task
    def tell(params: dict[str, str] | None = None) -> dict[str, str]:
        release = (params or {}).get("release")
        while release and not Path(release).exists():
            time.sleep(0.2)
        return VERSIONS

    tell()


edited()

"""How long a task's process needed before the task's own code began: Airflow's listener for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.listeners import hookimpl

from celery_stack import metrics


@hookimpl
def on_task_instance_running(task_instance: Any) -> None:
    """Tell the seconds since the start that the UI shows; runs in the task's process."""
    answer = task_instance._ti_context_from_server
    if answer is not None and answer.next_method:
        return  # goes on after a trigger, with the start it had before
    started = (datetime.now(UTC) - task_instance.start_date).total_seconds()
    metrics.timing("task.start_overhead", started, queue=task_instance.queue)

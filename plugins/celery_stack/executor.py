"""The executor of the stack."""

from __future__ import annotations

import os

from airflow.providers.celery.executors.celery_executor import CeleryExecutor

from celery_stack.publish_time import stamp_messages
from celery_stack.settings import Settings
from celery_stack.task_label import label_messages


class StackCeleryExecutor(CeleryExecutor):
    """CeleryExecutor whose scheduler is woken when something happens, and whose messages say when they were published, and what they are.

    Here belongs as well: publishing again what the broker lost.
    """

    def start(self) -> None:
        """Start; Airflow calls it in the scheduler's process alone, before the first loop."""
        super().start()
        stamp_messages()
        label_messages()
        if Settings.from_env(os.environ).WAKE_SCHEDULER == "on":
            from celery_stack.idle_sleep import make_wakeable  # drags the scheduler in

            make_wakeable(self.running)

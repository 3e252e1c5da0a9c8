"""The executor of the stack."""

from __future__ import annotations

from airflow.providers.celery.executors.celery_executor import CeleryExecutor


class StackCeleryExecutor(CeleryExecutor):
    """CeleryExecutor with a place for what this stack adds to it.

    Here belong: waking the scheduler when a task ends, the time at which each message was
    published, and publishing again what the broker lost. Until they come it is CeleryExecutor under
    another name, so that `[core] executor` does not change when they do.
    """

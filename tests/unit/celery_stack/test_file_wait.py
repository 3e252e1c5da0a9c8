"""Waiting for a file leaves the slot, or does not begin."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.providers.standard.triggers.file import FileTrigger
from airflow.sdk.exceptions import TaskDeferred

from celery_stack.file_wait import FileWait


def wait(pattern: str | None) -> FileWait:
    return FileWait(task_id="wait", look=lambda: pattern, poke_interval=5, timeout=60)


def test_where_there_is_nothing_to_wait_for_it_succeeds_at_once():
    """No trigger is started."""
    wait(None).execute({})


def test_else_the_triggerer_waits_and_knows_for_how_long():
    """The task ends its process; the glob, the interval and the timeout go along."""
    with pytest.raises(TaskDeferred) as deferred:
        wait("/landing/*.csv").execute({})
    trigger = deferred.value.trigger
    assert isinstance(trigger, FileTrigger)
    assert (trigger.filepath, trigger.poke_interval) == ("/landing/*.csv", 5)
    assert deferred.value.timeout == timedelta(seconds=60)
    assert callable(getattr(wait(None), deferred.value.method_name))

"""Errors of a workload are short where they pass between a worker's processes, and whole in its log."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Ignore

from celery_stack.small_errors import WorkloadError, keep_errors_small, with_small_errors

PIPE_BYTES = 64 * 1024
"""What a pipe of Linux takes before its writer has to wait."""


def fail_far_down(error: Exception, depth: int = 60) -> None:
    """Raise `error` below many frames, as Airflow's supervisor does."""
    if depth:
        fail_far_down(error, depth - 1)
    raise error


def sent_to_the_main_process(celery: Celery, run: Callable[..., Any]) -> int:
    """Give the bytes in which Celery tells of the failure of a task."""
    task = celery.task(name="execute_workload")(run)
    trace = build_tracer(task.name, task, app=celery)
    request = {"id": "id", "is_eager": False, "delivery_info": {}}
    return len(pickle.dumps(trace("id", (ValueError("x" * 100_000),), {}, request).retval))


def test_error_is_short_and_its_traceback_logged(caplog: pytest.LogCaptureFixture):
    """With room to spare in the pipe, frames and text included; as it was it did not fit."""
    caplog.set_level("ERROR")
    celery = Celery(backend="disabled://", set_as_current=False)
    assert sent_to_the_main_process(celery, fail_far_down) > PIPE_BYTES
    celery = Celery(backend="disabled://", set_as_current=False)
    assert sent_to_the_main_process(celery, with_small_errors(fail_far_down)) < 0.75 * PIPE_BYTES
    assert "fail_far_down" in caplog.text


def test_what_tells_celery_what_to_do_passes():
    """A message that came twice is ignored, not failed."""
    with pytest.raises(Ignore):
        with_small_errors(fail_far_down)(Ignore())


def test_results_pass():
    """Nothing else changes."""
    assert with_small_errors(divmod)(7, 2) == (3, 1)


def test_workloads_of_a_worker_are_wrapped_at_its_start():
    """The task that the executor sends, and no other."""
    tasks: dict[str, Any] = {
        name: SimpleNamespace(run=divmod) for name in ("execute_workload", "other")
    }
    keep_errors_small(sender=SimpleNamespace(app=SimpleNamespace(tasks=tasks)))
    assert tasks["other"].run is divmod
    with pytest.raises(WorkloadError):
        tasks["execute_workload"].run(1, 0)

"""Errors of a workload are short where they pass between a worker's processes, and whole in its log."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import Ignore

from celery_stack.small_errors import WorkloadError, keep_errors_small, with_small_errors

ONE_PIECE = 16 * 1024
"""What billiard writes at once."""


def fail_far_down(error: Exception, depth: int = 60) -> None:
    """Raise `error` below many frames, as Airflow's supervisor does."""
    if depth:
        fail_far_down(error, depth - 1)
    raise error


def test_error_is_short_and_its_traceback_logged(caplog: pytest.LogCaptureFixture):
    """Under what billiard writes in one piece, frames and text included."""
    with pytest.raises(WorkloadError) as caught:
        with_small_errors(fail_far_down)(ValueError("x" * 100_000))
    assert str(caught.value).startswith("ValueError: xxx")
    told = (type(caught.value), caught.value, caught.value.__traceback__)
    assert len(pickle.dumps(ExceptionInfo(told))) < ONE_PIECE
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

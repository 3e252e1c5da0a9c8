"""Errors of a workload reach Celery's main process in one piece.

Celery sends a failure with every frame of its traceback from the pool's process to the main one; those of
Airflow's supervisor are larger than the pipe between them, 64 KiB. A worker that is told to stop in the middle
of such a message takes its rest for the next one, and waits for ever for what that seems to announce, with its
slots idle, until it is killed (tests/faults/test_worker_stop.py). So the traceback goes to the log, and what is
raised is short: half of the pipe, most of it Celery's own frame. `imports` of `[celery] extra_celery_config`
names this module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.exceptions import TaskPredicate
from celery.signals import worker_init

log = logging.getLogger(__name__)

TASK = "execute_workload"
MOST_CHARACTERS = 1000


class WorkloadError(RuntimeError):
    """A workload ended in an error, which the worker's log has in full."""


@worker_init.connect  # type: ignore[untyped-decorator]
def keep_errors_small(sender: Any, **_: Any) -> None:
    """Have the workloads of this worker raise short errors, before its pool is forked."""
    task = sender.app.tasks[TASK]
    task.run = with_small_errors(task.run)


def with_small_errors(run: Callable[..., Any]) -> Callable[..., Any]:
    """Give `run`, with each error logged and raised as a short one; what tells Celery what to do passes."""

    @wraps(run)
    def run_workload(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except TaskPredicate:
            raise
        except Exception as error:
            log.exception("The workload ended in an error")
            told = f"{type(error).__name__}: {error}"
        raise WorkloadError(told[:MOST_CHARACTERS])

    return run_workload

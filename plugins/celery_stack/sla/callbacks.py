"""How an author says who is told of failed runs: `on_failure_callback=failure_mail(to=[…])`.

Airflow stores of a callback only that there is one. So a policy writes the addresses into the DAG's
default_args, which are stored with the DAG and of which no operator takes an argument by this name; the monitor
reads them there. The callback itself does nothing: nobody is told twice, and a mail needs neither the DAG's file
nor whoever would run a callback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_stack.sla.addresses import check_addresses

if TYPE_CHECKING:
    from airflow.sdk import DAG

STORED_AS = "failure_mail_to"
"""The name in a DAG's default_args."""


@dataclass(frozen=True)
class FailureMail:
    """An `on_failure_callback` that stands for a mail; `to` says who gets it."""

    to: tuple[str, ...]

    def __call__(self, context: Any) -> None:
        """Do nothing: the monitor sends it, once per run and cause."""


def failure_mail(*, to: Sequence[str]) -> FailureMail:
    """Say who gets the mails of a DAG's failed runs, instead of SLA_EMAIL_TO; `to=[]`: nobody.

    Give it to the DAG: `@dag(on_failure_callback=failure_mail(to=["ml@example.org"]))`.

    Raises:
        ValueError: one of them is no address.
    """
    return FailureMail(check_addresses(to))


def store_failure_mail(dag: DAG) -> None:
    """Write the addresses of the DAG's `failure_mail` to where they are stored with it."""
    found = [one for one in _as_list(dag.on_failure_callback) if isinstance(one, FailureMail)]
    if found:
        to = [address for one in found for address in one.to]
        dag.default_args[STORED_AS] = list(dict.fromkeys(to))


def find_misplaced(dag: DAG) -> Iterator[str]:
    """Say for each task with a `failure_mail`, where it would mean nothing, what to do instead."""
    for task in dag.tasks:
        if any(isinstance(c, FailureMail) for c in _as_list(task.on_failure_callback)):
            yield (
                f"task {task.task_id} has a failure_mail, which tells of failed runs. "
                "Give it to the DAG: @dag(on_failure_callback=failure_mail(to=[…]))."
            )


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]

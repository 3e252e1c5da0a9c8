"""How a DAG author promises when a run, or a task in it, is done.

A promise is one of Airflow's own DeadlineAlerts, so it is stored with the version of the DAG, and each
run keeps the promises of the version it was created with. All that the monitor needs is in the
alert's reference, a small JSON object; its callback does nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import DAG
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import BaseDeadlineReference, DeadlineAlert

from celery_stack.sla.addresses import check_addresses
from celery_stack.sla.judge import LONGEST_S

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
DAG_FILE_MODULE = "unusual_prefix_"
"""How Airflow names the module of a DAG file, which no other process can import."""
RUN = "run"
"""What the SLA of the whole run is called unless its author names it."""


@dataclass(frozen=True)
class Promise(BaseDeadlineReference):
    """What is promised, as it is stored in `deadline_alert.reference`.

    Airflow asks it once, when a run is created, for the moment that its deadline counts from.

    Args:
        task_id: empty for the whole run.
        name: tells several promises for one task apart.
        seconds: after the run was due.
        to: who is told; empty for those of the run's SLA, else of SLA_EMAIL_TO.
        on_miss: dotted path of the author's callback; empty for none.
        variable: Airflow Variable that says other seconds; empty for none.
    """

    task_id: str = ""
    name: str = RUN
    seconds: float = 0
    to: tuple[str, ...] = ()
    on_miss: str = ""
    variable: str = ""

    required_kwargs = frozenset({"dag_id", "run_id"})

    def serialize_reference(self) -> dict[str, Any]:
        """Give the promise as Airflow stores it: JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"reference_type": self.reference_name} | values | {"to": list(self.to)}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> Promise:
        """Give the promise that was stored."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in reference_data.items() if name in known}
        return cls(**given | {"to": tuple(given.get("to", ()))})

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        """Give the moment that Airflow counts its deadline from.

        None for a task: Airflow knows deadlines of runs alone, and would mark the run as late though
        the task was done in time.
        """
        from celery_stack.sla import new_run  # where a run is created, there is a database

        return new_run.deadline_from(self, session, dag_id, run_id)


async def noted(**_context: Any) -> None:
    """Do nothing: the monitor judges. An alert of Airflow's needs a callback, which its triggerer runs."""


def run_sla(
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    name: str = "",
    to: Sequence[str] = (),
    on_miss: Callable[..., Any] | str = "",
    variable: str = "",
) -> DeadlineAlert:
    """Promise that a run is finished in success so long after it was due.

    The clock starts at `run_after`; for a manual or backfilled run when it was created.

    Args:
        name: tells two promises for the run apart, and names this one in mails and metrics.
        to: who is told of a miss. Those of a DAG's run are also told of its tasks that name nobody;
            unset, it is SLA_EMAIL_TO.
        on_miss: called with a `SlaEvent` when it is missed: a function of a module that the stack can
            import (the plugins folder, a package), or its dotted path.
        variable: an Airflow Variable; where it is set when a run is created, it is the seconds promised.

    Raises:
        ValueError: the time is not above zero or above ten years, an address is none, the callback cannot
            be imported, a name has characters that cannot be printed.
    """
    length_s = _seconds(days, hours, minutes, seconds)
    return _alert(Promise("", name or RUN, length_s, *_rest(to, on_miss, variable)))


def task_sla(
    task_id: str,
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    name: str = "",
    to: Sequence[str] = (),
    on_miss: Callable[..., Any] | str = "",
    variable: str = "",
) -> DeadlineAlert:
    """Promise that the task `task_id` is finished in success so long after its run was due.

    Of a mapped task all instances have to be. A skipped task is finished: there was nothing to do.
    See `run_sla` for the arguments.
    """
    if not task_id:
        raise ValueError("task_sla needs the id of a task, got ''. For the whole run use run_sla.")
    length_s = _seconds(days, hours, minutes, seconds)
    return _alert(Promise(task_id, name or task_id, length_s, *_rest(to, on_miss, variable)))


def find_problems(dag: DAG) -> Iterator[str]:
    """Say what is wrong with the promises of `dag`, one line each, with the remedy."""
    alerts = cast("list[DeadlineAlert]", dag.deadline or [])  # Airflow has made a list of one
    promises = [alert.reference for alert in alerts if isinstance(alert.reference, Promise)]
    known = ", ".join(sorted(dag.task_ids))
    for promise in promises:
        if promise.task_id and promise.task_id not in dag.task_dict:
            yield (
                f"task_sla names the task {promise.task_id!r}, which the DAG does not have. "
                f"Use one of: {known}."
            )
    for path in dict.fromkeys(promise.on_miss for promise in promises):
        module = path.rpartition(".")[0]
        if path and not _can_be_imported(module):
            yield (
                f"on_miss={path!r} needs the module {module!r}, which cannot be imported. "
                "Put it into the plugins folder, or install it."
            )
    for (task_id, name), number in Counter((p.task_id, p.name) for p in promises).items():
        if number > 1:
            yield (
                f"{number} SLAs of {f'task {task_id}' if task_id else 'the run'} are called "
                f"{name!r}. Give each a name=."
            )


def _can_be_imported(module: str) -> bool:
    """Tell whether there is such a module; those that it lies in are imported for that, itself is not."""
    try:
        return find_spec(module) is not None
    except Exception:  # whatever a package raises that fails to import
        return False


def _seconds(days: float, hours: float, minutes: float, seconds: float) -> float:
    """Give the sum, to the microsecond; a timedelta would raise where it is too long."""
    return round(days * 86400 + hours * 3600 + minutes * 60 + seconds, 6)


def _alert(promise: Promise) -> DeadlineAlert:
    if not 0 < promise.seconds <= LONGEST_S:
        raise ValueError(
            f"The SLA {promise.name!r} needs a time above zero and of ten years at most, "
            f"got {promise.seconds:g} s. Set days, hours, minutes or seconds."
        )
    for what, text in (("name", promise.name), ("variable", promise.variable)):
        if not text.isprintable():  # Postgres cannot compare what has a zero byte
            raise ValueError(
                f"The {what} of an SLA must be text that can be printed, got {text!r}."
                " Leave out its control characters."
            )
    return DeadlineAlert(
        reference=promise,
        interval=timedelta(seconds=promise.seconds),
        callback=AsyncCallback(noted),
        name=promise.name,
    )


def _rest(
    to: Sequence[str], on_miss: Callable[..., Any] | str, variable: str
) -> tuple[tuple[str, ...], str, str]:
    """Give the last fields of a `Promise`, checked."""
    return check_addresses(to), _path_of(on_miss), variable


def _path_of(callback: Callable[..., Any] | str) -> str:
    if not callback:
        return ""
    if isinstance(callback, str):
        name, path = "", callback
    else:
        name = getattr(callback, "__qualname__", "?")
        path = f"{callback.__module__}.{name}"
    if "." in name or not DOTTED_PATH.fullmatch(path) or path.startswith(DAG_FILE_MODULE):
        raise ValueError(
            f"on_miss must be a function that other processes can import, got {path!r}. "
            "Put it into a module of the plugins folder, at its top level."
        )
    return path

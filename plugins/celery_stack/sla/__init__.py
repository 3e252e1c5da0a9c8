"""Promises of when a task or a run is done, judged from the metadata: records, e-mails, a page.

What a DAG author uses is `run_sla` and `task_sla`, for a callback of one's own `SlaEvent`, and
`failure_mail`:

    @dag(schedule="@weekly", deadline=[run_sla(hours=2), task_sla("train", minutes=30)])

`python -m celery_stack.sla` is the monitor. Airflow is imported only when one of those names is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_stack.sla.callbacks import failure_mail
    from celery_stack.sla.declare import run_sla, task_sla
    from celery_stack.sla.event import SlaEvent
    from celery_stack.sla.schema import Blocking, Miss

__all__ = ["Blocking", "Miss", "SlaEvent", "failure_mail", "run_sla", "task_sla"]

HOMES = {
    "failure_mail": "callbacks",
    "run_sla": "declare",
    "task_sla": "declare",
    "SlaEvent": "event",
    "Blocking": "schema",
    "Miss": "schema",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)

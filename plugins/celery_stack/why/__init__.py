"""Why is this task not running? One answer with its remedy, from the metadata and from Redis.

`make why DAG=… TASK=…` prints it; `explain` gives it to other code. It needs access to the metadata,
which tasks do not have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_stack.why.broker import look_into_broker
from celery_stack.why.judge import Code, Reason, judge
from celery_stack.why.metadata import UnknownTaskError, find_instance, latest_run, read_facts

if TYPE_CHECKING:
    from celery import Celery
    from sqlalchemy.orm import Session

__all__ = ["Code", "Reason", "UnknownTaskError", "explain", "latest_run"]

# Between the look at the metadata and the one at Redis a task may have started and ended.
ASKED_TWICE = frozenset({Code.LOST, Code.TAKER_GONE})


def explain(
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int = -1,
    *,
    session: Session,
    broker: Celery,
) -> Reason:
    """Say why a task instance is not running.

    Args:
        map_index: of a mapped task, else -1.
        session: on the metadata database; nothing is written or locked.
        broker: a Celery application with the stack's broker; it is asked about queued tasks only.

    Raises:
        UnknownTaskError: there is no such task instance.
    """
    reason = _look(dag_id, run_id, task_id, map_index, session, broker)
    if reason.code in ASKED_TWICE:
        reason = _look(dag_id, run_id, task_id, map_index, session, broker)
    return reason


def _look(
    dag_id: str, run_id: str, task_id: str, map_index: int, session: Session, broker: Celery
) -> Reason:
    instance = find_instance(dag_id, run_id, task_id, map_index, session)
    facts = read_facts(instance, session)
    if facts.state == "queued":
        look = look_into_broker(broker, facts.queue, instance.external_executor_id)
        facts = replace(facts, broker=look)
    return judge(facts)

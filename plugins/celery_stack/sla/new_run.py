"""What Airflow asks of a promise when it creates a run, in that run's transaction."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow.models import DagRun
from airflow.secrets.metastore import MetastoreBackend
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from celery_stack.sla.judge import LONGEST_S

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from celery_stack.sla.declare import Promise

logger = logging.getLogger(__name__)

NOTE = text(
    "insert into sla.interval (dag_id, run_id, task_id, name, seconds)"
    " values (:dag_id, :run_id, :task_id, :name, :seconds) on conflict do nothing"
)


def deadline_from(promise: Promise, session: Session, dag_id: str, run_id: str) -> datetime | None:
    """Give what Airflow adds the promise's own seconds to; None where it shall have no deadline.

    Whatever is wrong with a promise, stored by an earlier version perhaps, is logged: raised here, it would end
    the scheduler when an asset triggers the run. A lost transaction alone is for its owner to know.
    """
    try:
        seconds = seconds_promised(promise, session, dag_id, run_id)
        if promise.task_id:
            return None
        moment = due_from(session, dag_id, run_id) + timedelta(seconds=seconds)
        return moment - timedelta(seconds=promise.seconds)
    except DBAPIError:
        raise
    except Exception:
        logger.exception("SLA %s of %s %s: Airflow shows no deadline", promise.name, dag_id, run_id)
        return None


def due_from(session: Session, dag_id: str, run_id: str) -> datetime:
    """Give when the clock of the run started; `metadata.DUE_FROM` says the same in SQL."""
    columns = (DagRun.run_type, DagRun.run_after, DagRun.created_at)
    query = select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    run = session.execute(query).one()
    due: datetime = run.run_after
    created: datetime = run.created_at or due
    if run.run_type == "backfill":
        return created
    return max(created, due) if run.run_type == "manual" else due


def seconds_promised(promise: Promise, session: Session, dag_id: str, run_id: str) -> float:
    """Give the seconds promised for this run, and note them where its Variable says them.

    The Variable counts as it is when the run is created, as in Airflow's own deadlines. A run is never kept
    from being created: what is wrong with the Variable is logged.
    """
    seconds = _variable_seconds(promise.variable, session) if promise.variable else None
    if seconds is None:
        return promise.seconds
    values = {"dag_id": dag_id, "run_id": run_id, "task_id": promise.task_id, "name": promise.name}
    # A savepoint in SQL: the scheduler forbids its session to commit, even a part of it.
    session.execute(text("savepoint sla"))
    try:
        session.execute(NOTE, values | {"seconds": seconds})
    except SQLAlchemyError as error:
        session.execute(text("rollback to savepoint sla"))
        logger.warning(
            "SLA %s of %s %s stays at %g s: %s",
            promise.name,
            dag_id,
            run_id,
            promise.seconds,
            error,
        )
        return promise.seconds
    session.execute(text("release savepoint sla"))
    return seconds


def _variable_seconds(key: str, session: Session) -> float | None:
    """Give what the Variable says; None where it is not set, or says no time.

    With the session of the caller: `Variable.get` would commit it, which the scheduler forbids.
    """
    value = MetastoreBackend().get_variable(key, session=session)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= LONGEST_S:
        logger.warning(
            "Variable %s must be seconds above zero, %d at most, got %r: left out.",
            key,
            LONGEST_S,
            value,
        )
        return None
    return seconds

"""Why a promise is broken: what holds the run or the task, as `make why` says it.

A reason never keeps a mail from being sent: what cannot be found out within its time is left out.

Airflow's models, with which they are found out, take 80 MiB: they are imported with the first miss.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from celery_stack.sla.metadata import Unfinished
from celery_stack.sla.schema import Blocking

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

ASK_FOR_S = 30
"""All reasons of one look together: each queued task costs questions to the workers."""
SHOWN = 20
"""Blocking tasks of one miss; a run of thousands shows its first ones."""


def _import_airflow() -> None:
    """Import what Airflow sets up logging with, and leave logging as it was."""
    handlers, level = list(logging.root.handlers), logging.root.level
    import_module("airflow.models")
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


class Reasons:
    """Answers for one look; what was asked once is not asked again.

    Args:
        url: SQLAlchemy's, of the metadata, as a role that may read.
        broker_url: of Redis.
    """

    def __init__(self, url: str, broker_url: str) -> None:
        _import_airflow()
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        from celery_stack.live_workers import connect

        self._engine = create_engine(url, poolclass=NullPool)
        self._broker: Celery = connect(broker_url)
        self._known: dict[tuple[str, str, str, int], tuple[str, bool]] = {}
        self._end = time.monotonic() + ASK_FOR_S

    def blocking(
        self, dag_id: str, run_id: str, task_id: str, unfinished: Sequence[Unfinished]
    ) -> list[Blocking]:
        """Give what keeps the task, or with an empty `task_id` the run, from being done.

        The task itself is always among it; of those that wait for others only these others are.
        """
        wanted = self._upstream(dag_id, run_id, task_id) if task_id else None
        found = []
        for one in unfinished:
            if (wanted is not None and one.task_id not in wanted) or one.state == "upstream_failed":
                continue
            why, follows = self._ask(dag_id, run_id, one)
            if not follows or one.task_id == task_id:
                found.append(Blocking(one.name, one.state, why))
            if len(found) == SHOWN:
                break
        return found

    def _ask(self, dag_id: str, run_id: str, one: Unfinished) -> tuple[str, bool]:
        """Give why it waits, and whether it only waits for others."""
        key = (dag_id, run_id, one.task_id, one.map_index)
        if key not in self._known:
            if time.monotonic() > self._end:
                return "", False
            self._known[key] = self._explain(*key)
        return self._known[key]

    def _explain(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> tuple[str, bool]:
        from sqlalchemy.orm import Session

        from celery_stack.why import Code, UnknownTaskError, explain

        try:
            with Session(self._engine) as session:
                found = explain(
                    dag_id, run_id, task_id, map_index, session=session, broker=self._broker
                )
        except UnknownTaskError:
            return "", False  # it was cleared away between two questions
        except Exception:
            logger.exception("Why %s %s %s waits is not known", dag_id, run_id, task_id)
            return "", False
        return found.text, found.code == Code.UPSTREAM  # those it waits for are listed themselves

    def _upstream(self, dag_id: str, run_id: str, task_id: str) -> set[str]:
        """Give the ids of the task and of all that it waits for; it alone if its DAG is gone."""
        from airflow.models import DagRun
        from airflow.models.dagbag import DBDagBag
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        query = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        try:
            with Session(self._engine) as session:
                run = session.scalars(query).one_or_none()
                dag = run and DBDagBag().get_dag_for_run(run, session=session)
        except Exception:
            logger.exception("What %s of %s waits for is not known", task_id, dag_id)
            return {task_id}
        if not dag or not dag.has_task(task_id):
            return {task_id}
        return {task_id, *dag.get_task(task_id).get_flat_relative_ids(upstream=True)}

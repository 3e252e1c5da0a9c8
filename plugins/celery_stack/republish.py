"""Queued tasks whose messages Redis lost are published again, and places of tasks long gone are given back.

Airflow knows of a queued task, Redis has its message, and nothing holds the two together: when Redis loses its
data, or a worker dies between taking a message and starting its task, stock Airflow waits for
`[scheduler] task_queued_timeout`. Here each scheduler looks now and then whether the messages of its own queued
tasks are still there. What two looks in a row miss, and no worker holds, is published again under the same Celery
id. Should the first message turn up after all, the api-server refuses the second start.

The executor also holds a place for each message until it reads a result; where that was lost, it would hold it for
ever. It is given back once two looks found that the metadata has the task neither queued nor running.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from celery_stack import metrics
from celery_stack.messages import Broker

log = logging.getLogger(__name__)

QUEUED = TaskInstanceState.QUEUED
UNDER_WAY = (QUEUED, TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING)
# A worker starts its task within a second or two of taking the message, unless the api-server is away.
START_PATIENCE = timedelta(seconds=60)
ANSWER_TIMEOUT_S = 1
# However long the queues, looking takes a twentieth of the scheduler's time at most.
REST = 19
NAMED = 5


class Republisher:
    """Looks after the messages of the queued tasks of one executor.

    Args:
        executor: it is asked and told from the scheduler's main thread, as by the scheduler.
        every_s: seconds between two looks; a task that has not been queued for so long is left alone.
    """

    def __init__(self, executor: CeleryExecutor, broker: Broker, every_s: float) -> None:
        self._executor = executor
        self._broker = broker
        self._every_s = every_s
        self._next_look = time.monotonic() + every_s
        self._missing: set[str] = set()
        self._over: set[str] = set()

    def look_when_due(self) -> None:
        """Look, if the last time is long enough ago.

        Raises:
            what `messages.NO_ANSWER` lists: Redis gives no answer; the next look begins anew.
        """
        begin = time.monotonic()
        if begin < self._next_look:
            return
        try:
            self.look()
        finally:
            took_s = time.monotonic() - begin
            self._next_look = begin + took_s + max(self._every_s, REST * took_s)

    def look(self) -> None:
        """Look once; act on what the look before saw as well."""
        keys = self._keys()
        if not keys:
            return self._forget()
        queues = self._under_way()
        self._release(keys, over=keys.keys() - queues.keys())
        queued = {one: queue for one, queue in queues.items() if queue and one in keys}
        self._missing &= queued.keys()
        if queued and (lost := self._lost(queued)):
            self._publish_again(lost)
        return None

    def _forget(self) -> None:
        self._missing.clear()
        self._over.clear()

    def _keys(self) -> dict[str, TaskInstanceKey]:
        """Give the tasks whose results the executor waits for, by Celery id."""
        workloads: Mapping[Any, Any] = self._executor.workloads
        return {
            result.task_id: key
            for key, result in workloads.items()
            if isinstance(key, TaskInstanceKey)
        }

    def _under_way(self) -> dict[str, str | None]:
        """Give the queues of what is under way for this scheduler, by Celery id; None if it need not be looked for."""
        task = TaskInstance
        query = select(task.external_executor_id, task.state, task.queue, task.queued_dttm).where(
            task.state.in_(UNDER_WAY),
            task.queued_by_job_id == self._executor.job_id,
            task.external_executor_id.is_not(None),
        )
        latest = datetime.now(UTC) - timedelta(seconds=self._every_s)
        with create_session() as session:
            return {
                str(message_id): queue if state == QUEUED and at and at <= latest else None
                for message_id, state, queue, at in session.execute(query)
            }

    def _release(self, keys: Mapping[str, TaskInstanceKey], over: set[str]) -> None:
        """Give back the places of tasks that were over at the last look too: nobody has their results."""
        for message_id in over & self._over:
            self._drop(keys[message_id])
            log.info("%s is over, and its result was lost: its place is free.", keys[message_id])
        self._over = over - self._over

    def _drop(self, key: TaskInstanceKey) -> None:
        self._executor.running.discard(key)
        self._executor.workloads.pop(key, None)

    def _lost(self, queued: Mapping[str, str]) -> set[str]:
        """Give those of the messages that neither Redis nor a worker has, now and at the last look.

        Args:
            queued: queues by Celery id.
        """
        before, self._missing = self._missing, set()  # should Redis give no answer
        messages = self._broker.read(queued.values())
        there = {message_id for line in messages.waiting.values() for message_id in line}
        just_taken = datetime.now(UTC) - START_PATIENCE
        there |= {message_id for message_id, at in messages.taken.items() if at > just_taken}
        missing = queued.keys() - there
        suspected = missing & before
        lost = suspected - self._held(suspected) if suspected else set()
        self._missing = missing - lost
        return lost

    def _held(self, message_ids: set[str]) -> set[str]:
        """Ask the workers which of the messages they hold, running or waiting for a slot."""
        celery = self._executor.celery_app
        with celery.connection_for_read() as connection:
            ask = celery.control.inspect(timeout=ANSWER_TIMEOUT_S, connection=connection)
            answers = ask.query_task(*message_ids) or {}
        return {message_id for held in answers.values() for message_id in held}

    def _publish_again(self, lost: set[str]) -> None:
        """Hand the tasks that are still queued to the executor, as the scheduler did the first time."""
        query = (
            select(TaskInstance)
            .where(
                TaskInstance.state == QUEUED,
                TaskInstance.queued_by_job_id == self._executor.job_id,
                TaskInstance.external_executor_id.in_(lost),
            )
            .options(joinedload(TaskInstance.dag_run), joinedload(TaskInstance.dag_model))
        )
        published = []
        with create_session() as session:
            for task in session.scalars(query):
                self._drop(task.key)
                self._executor.queue_workload(self._workload(task), session=session)
                published.append(f"{task.dag_id}.{task.task_id} of {task.run_id}, {task.map_index}")
        if not published:
            return
        metrics.count("executor.tasks_republished", len(published))
        log.warning(
            "Redis lost the messages of %d queued tasks, published again: %s%s",
            len(published),
            "; ".join(published[:NAMED]),
            "; …" if len(published) > NAMED else "",
        )

    def _workload(self, task: TaskInstance) -> ExecuteTask:
        return ExecuteTask.make(
            task,
            generator=self._executor.jwt_generator,
            sentry_integration=self._executor.sentry_integration,
        )

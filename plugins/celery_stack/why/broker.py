"""Where a queued task is: in Redis, on its way to a worker, at one, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from celery import Celery

from celery_stack.live_workers import ANSWER_TIMEOUT_S, LiveWorker, ask_workers
from celery_stack.messages import CONNECT_RETRIES, NO_ANSWER, read_messages
from celery_stack.why.facts import Broker, Holder, instance_name

INSTANCE_KEYS = ("dag_id", "run_id", "task_id", "map_index")


class _Task(NamedTuple):
    """A Celery task as its worker sees it."""

    seen: dict[str, Any]
    worker: str
    state: str


def look_into_broker(celery: Celery, queue: str, message_id: str | None) -> Broker:
    """Look for the message `message_id` of `queue`, and at the workers that consume that queue.

    Looked at in the order in which a message travels, so that one that moves on is not missed.
    """
    try:
        with celery.connection_for_read() as connection:
            connection.ensure_connection(max_retries=CONNECT_RETRIES)
            messages = read_messages(connection.default_channel, [queue])
            line = messages.waiting[queue]
        consumers = [worker for worker in ask_workers(celery) if queue in worker.queues]
        tasks = _tasks(celery, consumers)
    except NO_ANSWER as error:
        return Broker(error=str(error) or type(error).__name__)
    return Broker(
        waiting=len(line),
        ahead=line.index(message_id) if message_id in line else None,
        taken_at=messages.taken.get(message_id or ""),
        at_worker=next((task.worker for task in tasks if task.seen["id"] == message_id), ""),
        workers=[worker.name for worker in consumers],
        slots=sum(worker.slots for worker in consumers),
        busy=sorted((_holder(task) for task in tasks), key=lambda holder: holder.name),
    )


def _tasks(celery: Celery, workers: Sequence[LiveWorker]) -> list[_Task]:
    """Give what the workers run, and what they have reserved for the slots that come free."""
    names = [worker.name for worker in workers]
    if not names:
        return []
    ask = celery.control.inspect(names, timeout=ANSWER_TIMEOUT_S)
    running, reserved = ask.active() or {}, ask.reserved() or {}
    return [
        _Task(task, name, state)
        for state, answer in (("running", running), ("reserved", reserved))
        for name, tasks in answer.items()
        for task in tasks
    ]


def _holder(task: _Task) -> Holder:
    """Name the task instance inside Airflow's workload, the one argument of its Celery task."""
    try:
        instance = json.loads(task.seen["args"][0])["ti"]
        name = instance_name(**{key: instance[key] for key in INSTANCE_KEYS})
    except (ValueError, KeyError, TypeError, IndexError):
        name = task.seen["name"]  # a callback, which is no task instance
    return Holder(name, task.state, task.worker)

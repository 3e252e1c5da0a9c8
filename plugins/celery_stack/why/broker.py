"""Where a queued task is: in Redis, on its way to a worker, at one, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from celery_stack.live_workers import ANSWER_TIMEOUT_S, LiveWorker, ask_workers
from celery_stack.why.facts import Broker, Holder, instance_name

CONNECT_RETRIES = 1
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
            channel = connection.default_channel
            line = _line(channel, queue)
            taken_at = _taken_at(channel, message_id)
        consumers = [worker for worker in ask_workers(celery) if queue in worker.queues]
        tasks = _tasks(celery, consumers)
    except (OperationalError, RedisError, OSError) as error:
        return Broker(error=str(error) or type(error).__name__)
    return Broker(
        waiting=len(line),
        ahead=line.index(message_id) if message_id in line else None,
        taken_at=taken_at,
        at_worker=next((task.worker for task in tasks if task.seen["id"] == message_id), ""),
        workers=[worker.name for worker in consumers],
        slots=sum(worker.slots for worker in consumers),
        busy=sorted((_holder(task) for task in tasks), key=lambda holder: holder.name),
    )


def _line(channel: Any, queue: str) -> list[str | None]:
    """Give the ids of the messages in `queue`, the next one first.

    kombu has a list per priority step, pushes on the left and pops on the right.
    """
    lists = [f"{queue}{channel.sep}{step}" if step else queue for step in channel.priority_steps]
    with channel.client.pipeline() as pipe:
        for name in lists:
            pipe.lrange(name, 0, -1)
        return [_message_id(raw) for messages in pipe.execute() for raw in reversed(messages)]


def _taken_at(channel: Any, message_id: str | None) -> datetime | None:
    """Say when the message was delivered, if nobody has acknowledged it since."""
    for tag, raw in channel.client.hscan_iter(channel.unacked_key):
        message, _exchange, _routing_key = json.loads(raw)
        if message["headers"].get("id") == message_id:
            delivered = channel.client.zscore(channel.unacked_index_key, tag)
            return datetime.fromtimestamp(delivered, UTC) if delivered else datetime.now(UTC)
    return None


def _message_id(raw: bytes) -> str | None:
    """Give the Celery task id in a message; None if the entry is none of Celery's."""
    try:
        message_id: str | None = json.loads(raw)["headers"]["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return message_id


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

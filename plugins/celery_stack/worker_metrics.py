"""What a worker tells of itself: the queues it consumes, its slots, and how long tasks waited for one.

`imports` of `[celery] extra_celery_config` names this module. Celery's main process sends with its own heartbeat:
once that stops, so do the metrics, and what was said expires in the exporter.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from celery import Task
from celery.signals import heartbeat_sent, task_prerun, worker_init, worker_ready
from celery.worker.state import active_requests

from celery_stack import metrics
from celery_stack.publish_time import seconds_waited

EVERY_S = 10.0


@dataclass
class Told:
    """What the main process knows of itself, and when it last told."""

    consumer: Any = None
    at: float = float("-inf")


TOLD = Told()


@worker_init.connect  # type: ignore[untyped-decorator]
def look_up_exporter(**_: Any) -> None:
    """Before anything is forked."""
    metrics.connect()


@worker_ready.connect  # type: ignore[untyped-decorator]
def remember(sender: Any, **_: Any) -> None:
    """Keep the consumer: the heartbeat's signal does not say whose it is."""
    TOLD.consumer = sender


@heartbeat_sent.connect  # type: ignore[untyped-decorator]
def tell(**_: Any) -> None:
    """Send slots and consumed queues, not with every heartbeat (every 2 s)."""
    now = time.monotonic()
    if TOLD.consumer is None or now - TOLD.at < EVERY_S:
        return
    TOLD.at = now
    name = TOLD.consumer.hostname
    pool = worker_pool_of(name)
    metrics.gauge("worker.slots", slots(TOLD.consumer), worker=name, worker_pool=pool)
    metrics.gauge("worker.busy_slots", len(active_requests), worker=name, worker_pool=pool)
    for queue in consumed(TOLD.consumer):
        metrics.gauge("worker.consuming", 1, worker=name, worker_pool=pool, queue=queue)


@task_prerun.connect  # type: ignore[untyped-decorator]
def tell_wait(task: Task, **_: Any) -> None:
    """Tell how long the message waited; runs in the slot that took it."""
    waited = seconds_waited(task)
    if waited is not None:
        metrics.timing("queue.wait", waited, queue=task.request.delivery_info["routing_key"])


def slots(consumer: Any) -> int:
    """Give how many tasks the worker runs at once."""
    return int(consumer.pool.num_processes)


def consumed(consumer: Any) -> list[str]:
    """Give the queues it consumes, as `inspect active_queues` does; none while it is not connected."""
    task_consumer = consumer.task_consumer
    return [queue.name for queue in task_consumer.queues] if task_consumer else []


def worker_pool_of(name: str) -> str:
    """Give the worker pool of a Celery node: `worker-cpu-train` of `worker-cpu-train-1@host`."""
    return re.sub(r"-\d+$", "", name.partition("@")[0])

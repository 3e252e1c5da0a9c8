"""When a message was published travels with it, so that a worker can tell how long it waited in its queue.

Celery says nothing of it, and Airflow's `task.queued_duration` is never sent.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from celery.signals import before_task_publish

HEADER = "published_at"


def stamp_messages() -> None:
    """Have every message that this process publishes carry its time, in seconds since the epoch."""
    before_task_publish.connect(_stamp, weak=False, dispatch_uid="celery_stack.publish_time")


def seconds_waited(task: Task) -> float | None:
    """Tell how long the message of the running `task` waited; None if it does not say, or came back.

    A message that is delivered again had been taken before: its age is not what it waited.
    """
    published = task.request.get(HEADER)
    if published is None or (task.request.delivery_info or {}).get("redelivered"):
        return None
    return time.time() - float(published)


def _stamp(headers: dict[str, Any], **_: Any) -> None:
    headers[HEADER] = time.time()

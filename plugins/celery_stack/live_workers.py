"""The Celery workers that are alive, as they themselves say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery import Celery

ANSWER_TIMEOUT_S = 2


@dataclass(frozen=True)
class LiveWorker:
    """One worker process: its Celery name, the queues it consumes, and how many tasks it runs at once."""

    name: str
    queues: tuple[str, ...]
    slots: int


def connect(broker_url: str) -> Celery:
    """Give a Celery application to ask workers with, which opens a connection for each question.

    Celery keeps connections otherwise, for the whole process: after a restart of Redis the next
    question would fail on a dead one.
    """
    return Celery(broker=broker_url, changes={"broker_pool_limit": None})


def ask_workers(celery: Celery) -> list[LiveWorker]:
    """Ask every worker over Redis which queues it consumes and how many slots it has.

    A worker that answers a ping may still consume nothing; its queues are what its health means.
    """
    queues: dict[str, Any] = celery.control.inspect(timeout=ANSWER_TIMEOUT_S).active_queues() or {}
    asked = celery.control.inspect(list(queues), timeout=ANSWER_TIMEOUT_S)
    stats: dict[str, Any] = (asked.stats() or {}) if queues else {}
    return [
        LiveWorker(name, tuple(sorted(queue["name"] for queue in consumed)), _slots(stats, name))
        for name, consumed in sorted(queues.items())
    ]


def _slots(stats: dict[str, Any], name: str) -> int:
    return int(stats.get(name, {}).get("pool", {}).get("max-concurrency", 0))

"""The Celery workers that are alive, as they themselves say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.app.control import Inspect

ANSWER_TIMEOUT_S = 2


@dataclass(frozen=True)
class LiveWorker:
    """One worker process: its Celery name, the queues it consumes, and how many tasks it runs at once."""

    name: str
    queues: tuple[str, ...]
    slots: int


def ask_workers(celery: Celery) -> list[LiveWorker]:
    """Ask every worker over Redis which queues it consumes and how many slots it has.

    A worker that answers a ping may still consume nothing; its queues are what its health means.
    """
    queues: dict[str, Any] = celery.control.inspect(timeout=ANSWER_TIMEOUT_S).active_queues() or {}
    stats: dict[str, Any] = (inspect_only(celery, list(queues)).stats() or {}) if queues else {}
    return [
        LiveWorker(name, tuple(sorted(queue["name"] for queue in consumed)), _slots(stats, name))
        for name, consumed in sorted(queues.items())
    ]


def inspect_only(celery: Celery, names: list[str]) -> Inspect:
    """Give Celery's questions to the workers `names`; it is over when all of them answered."""
    return celery.control.inspect(names, timeout=ANSWER_TIMEOUT_S, limit=len(names))


def _slots(stats: dict[str, Any], name: str) -> int:
    return int(stats.get(name, {}).get("pool", {}).get("max-concurrency", 0))

"""Which queues the workers consume, as they themselves say."""

from __future__ import annotations

from typing import Any

from celery import Celery


def ask_for_queues(broker_url: str) -> dict[str, list[str]]:
    """Ask every worker over Redis which queues it consumes: node name → queue names."""
    app = Celery(broker=broker_url)
    answers: dict[str, Any] = app.control.inspect(timeout=2).active_queues() or {}
    return {name: sorted(queue["name"] for queue in queues) for name, queues in answers.items()}

"""What people are shown of a message: `wdbc_training.train[2]` instead of its content, which holds the task's token.

Celery sends a text beside the content for just that; its events, Flower and logs show it. Stock Airflow has there the
beginning of the content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from celery.signals import before_task_publish

HIDDEN = "(hidden)"


def label_messages() -> None:
    """Have every message that this process publishes carry its label."""
    before_task_publish.connect(_label, weak=False, dispatch_uid="celery_stack.task_label")


def label_of(content: str) -> str:
    """Give DAG, task and map index of a workload; of anything else nothing."""
    try:
        task = json.loads(content)["ti"]
        name, index = f"{task['dag_id']}.{task['task_id']}", task["map_index"]
    except (ValueError, KeyError, TypeError):
        return HIDDEN
    return name if index is None or index < 0 else f"{name}[{index}]"


def _label(headers: dict[str, Any], body: Sequence[Any], **_: Any) -> None:
    arguments = body[0]
    headers["argsrepr"] = label_of(arguments[0]) if arguments else HIDDEN

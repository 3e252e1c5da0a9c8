"""How many task instances counted at once, as the metadata has them afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any


def place(instance: Any) -> tuple[datetime, datetime]:
    """Give the time during which the instance counted: queued or running."""
    return instance.queued_dttm, instance.end_date


def most_at_once(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """Give the largest number of spans that overlap at any time."""
    changes = sorted(change for begin, end in spans for change in ((end, -1), (begin, 1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most

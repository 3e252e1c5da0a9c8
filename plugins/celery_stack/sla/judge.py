"""Whether a promise was kept, from what the metadata says: no database, no clock of its own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["pending", "met", "missed"]

LONGEST_S = 10 * 365 * 86400
"""The longest time that can be promised: moments have an end, and Airflow's scheduler would fail beyond it."""

WORST_FIRST = (
    "failed",
    "upstream_failed",
    "none",
    "scheduled",
    "queued",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    "restarting",
    "running",
    "skipped",
    "success",
)
"""Which state speaks for a mapped task whose instances are in several; Airflow's null is `none`."""


def judge(*, promised: datetime, finished: datetime | None, now: datetime) -> Verdict:
    """Say whether a promise was kept.

    It is a miss only from the promised moment on: what has failed before may be cleared in time.
    When it was finished counts, not when somebody looked.
    """
    if finished is not None:
        return "met" if finished <= promised else "missed"
    return "pending" if now < promised else "missed"


def story(due_from: datetime, started: datetime | None, finished: datetime) -> str:
    """Say in a line where the time of what finished late went."""
    if started is None or started > finished:
        return f"It finished {length(finished - due_from)} after it was due."
    return (
        f"It started {length(started - due_from)} after the clock did "
        f"and ran for {length(finished - started)}."
    )


def length(time: timedelta) -> str:
    """Give a length of time as people say it: `2 h 05 min`, `3 min 20 s`, `12 s`."""
    seconds = max(round(time.total_seconds()), 0)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"

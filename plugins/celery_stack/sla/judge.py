"""Whether a promise was kept, from what the metadata says: no database, no clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["pending", "met", "missed"]

DONE = frozenset({"success", "skipped"})
"""Skipped is done: somebody or something has decided that there was nothing to do."""
GONE = "removed"
"""Instances that a mapped task no longer has."""
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


@dataclass(frozen=True)
class Instance:
    """A task instance now, and when it was first done in an earlier life.

    Args:
        state: `none` before anything looked at it.
        done_before: when it ended in success before somebody cleared it; None if it never did.
    """

    map_index: int
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    done_before: datetime | None = None

    @property
    def finished(self) -> datetime | None:
        """When it was first done; clearing it afterwards breaks no promise."""
        now = self.ended if self.state in DONE else None
        return min((moment for moment in (now, self.done_before) if moment), default=None)


def finished_at(instances: Sequence[Instance]) -> datetime | None:
    """Give when a task was done, which is when the last of its instances was; None if it is not."""
    moments = [one.finished for one in instances if one.state != GONE]
    done = [moment for moment in moments if moment is not None]
    return max(done) if done and len(done) == len(moments) else None


def worst(instances: Sequence[Instance]) -> Instance | None:
    """Give the instance that keeps a task from being done, first of all one that failed."""
    ranks = {state: rank for rank, state in enumerate(WORST_FIRST)}
    present = [one for one in instances if one.state != GONE]
    return min(present, key=lambda one: (ranks.get(one.state, 0), one.map_index), default=None)


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

"""What is known of a task instance and of all that it may wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Holder:
    """Who holds what a task waits for: a task instance or a run, its state, and its worker."""

    name: str
    state: str
    worker: str = ""


@dataclass(frozen=True)
class Limit:
    """Something of which at most `size` may be used at once.

    Args:
        needed: how much of it the task takes.
        holders: who uses it now; they need not be `used` many, one may take several slots.
    """

    size: float
    used: int
    holders: Sequence[Holder] = ()
    needed: int = 1

    @property
    def is_reached(self) -> bool:
        return self.used + self.needed > self.size


@dataclass(frozen=True)
class Run:
    """The run of the task: its state, when it is due, and how many of its kind run at once."""

    state: str
    due_at: datetime
    active: Limit


@dataclass(frozen=True)
class Trigger:
    """What a deferred task waits for; `triggerer` says whether one has taken it."""

    classpath: str
    since: datetime
    has_triggerer: bool


@dataclass(frozen=True)
class Broker:
    """What Redis and the workers say of a queued task.

    Args:
        waiting: messages in its queue.
        ahead: how many of them are before its own; None if its own is not in the queue.
        taken_at: since when its message is delivered and not acknowledged; None if it is not.
        at_worker: the live worker that has it; empty if none.
        workers: live workers that consume the queue.
        slots: how many tasks those run at once.
        busy: what runs in those slots.
        error: why there is no answer; empty if there is.
    """

    waiting: int = 0
    ahead: int | None = None
    taken_at: datetime | None = None
    at_worker: str = ""
    workers: Sequence[str] = ()
    slots: int = 0
    busy: Sequence[Holder] = ()
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything that the judge looks at; what does not matter in a state is left at its default.

    Args:
        paused: what is paused: `DAG x` or `Backfill 3`; empty if nothing is.
        is_stale: the DAG's file is gone or cannot be read.
        retries: how many the task may have.
        retry_at, reschedule_at: before that it is not looked at.
        waits_for: upstream instances that are not done, if the trigger rule is not met yet.
        unmet: other unmet dependencies, as Airflow words them.
        pool: None if the pool does not exist.
        pool_variable: the setting with the slots of the pool.
        per_dag, per_run: the task's own limits, None if it has none.
        parallelism: over all schedulers that are alive.
        scheduler_seen_at: the latest heartbeat of a scheduler that was not stopped; None without one.
        scheduler_patience_s: silence after which a scheduler counts as dead.
        worker_pool: who is declared to serve the queue.
    """

    now: datetime
    dag_id: str
    state: str | None
    run: Run
    queue: str = ""
    worker_pool: str = ""
    worker: str = ""
    try_number: int = 0
    retries: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    queued_at: datetime | None = None
    paused: str = ""
    is_stale: bool = False
    retry_at: datetime | None = None
    reschedule_at: datetime | None = None
    waits_for: Sequence[Holder] = ()
    trigger_rule: str = "all_success"
    unmet: Sequence[str] = ()
    trigger: Trigger | None = None
    pool_name: str = ""
    pool_variable: str = ""
    pool: Limit | None = None
    max_active_tasks: Limit | None = None
    per_dag: Limit | None = None
    per_run: Limit | None = None
    parallelism: Limit | None = None
    scheduler_seen_at: datetime | None = None
    scheduler_patience_s: float = 30
    broker: Broker | None = None


def instance_name(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Give the name of a task instance as it is shown: `dag run task[2]`."""
    return f"{dag_id} {run_id} {task_id}" + (f"[{map_index}]" if map_index >= 0 else "")

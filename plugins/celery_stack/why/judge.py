"""Judge from the facts alone why a task instance is not running: one answer, with the remedy.

A task instance goes through states, and in each only some things can hold it. They are looked at in
the order in which the scheduler, Redis and the workers come to them: the first that holds it is the
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from celery_stack.why.facts import Broker, Facts, Holder, Limit

# Between its state in the metadata and its message in Redis lies a part of one scheduler loop.
PUBLISH_PATIENCE = timedelta(seconds=10)
# A worker with a free slot takes a message at once.
TAKE_PATIENCE = timedelta(seconds=30)


class Code(StrEnum):
    """The kinds of answers."""

    PAUSED = "paused"
    STALE_DAG = "stale_dag"
    RUN_NOT_DUE = "run_not_due"
    RUN_QUEUED = "run_queued"
    RUN_OVER = "run_over"
    UPSTREAM = "upstream"
    DEPENDENCY = "dependency"
    BACKOFF = "backoff"
    RESCHEDULED = "rescheduled"
    DEFERRED = "deferred"
    AWAITING_INPUT = "awaiting_input"
    NO_POOL = "no_pool"
    POOL_FULL = "pool_full"
    MAX_ACTIVE_TASKS = "max_active_tasks"
    TASK_LIMIT = "task_limit"
    PARALLELISM = "parallelism"
    NO_SCHEDULER = "no_scheduler"
    NOT_LOOKED_AT = "not_looked_at"
    PUBLISHING = "publishing"
    BROKER_DOWN = "broker_down"
    NO_WORKER = "no_worker"
    QUEUE_BUSY = "queue_busy"
    QUEUE_MOVES = "queue_moves"
    WORKER_STUCK = "worker_stuck"
    TAKEN = "taken"
    TAKER_GONE = "taker_gone"
    LOST = "lost"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True)
class Reason:
    """Why a task instance is not running: the kind, a sentence with the remedy, and who holds it."""

    code: Code
    text: str
    holders: Sequence[Holder] = ()


Check: TypeAlias = Callable[[Facts], Reason | None]


def judge(facts: Facts) -> Reason:
    """Give the one answer for the state that the task instance is in."""
    for check in CHECKS.get(facts.state, (_done,)):
        reason = check(facts)
        if reason is not None:
            return reason
    raise AssertionError(f"the last check of state {facts.state} gave no answer")


def _paused(facts: Facts) -> Reason | None:
    if not facts.paused:
        return None
    remedy = f'unpause it in the UI, or: make airflow ARGS="dags unpause {facts.dag_id}"'
    if not facts.paused.startswith("DAG"):
        remedy = "unpause it in the UI"
    return Reason(Code.PAUSED, f"{facts.paused} is paused: {remedy}.")


def _stale(facts: Facts) -> Reason | None:
    if not facts.is_stale:
        return None
    return Reason(
        Code.STALE_DAG,
        f"The file of DAG {facts.dag_id} is gone or cannot be read, so its runs stand still: "
        "look for an import error in the UI, or: make check-dags.",
    )


def _run(facts: Facts) -> Reason | None:
    run = facts.run
    if run.state == "running":
        return None
    if run.state != "queued":
        return Reason(
            Code.RUN_OVER,
            f"Its run has ended ({run.state}): clear the task to let it run after all.",
        )
    if run.due_at > facts.now:
        return Reason(Code.RUN_NOT_DUE, f"Its run is not due before {_time(run.due_at)}: wait.")
    if run.active.is_reached:
        return Reason(
            Code.RUN_QUEUED,
            f"Its run is queued behind max_active_runs={run.active.size:g}: "
            "wait for these runs, or raise max_active_runs of the DAG.",
            run.active.holders,
        )
    return _scheduler(facts)


def _backoff(facts: Facts) -> Reason | None:
    if facts.retry_at is None or facts.retry_at <= facts.now:
        return None
    return Reason(
        Code.BACKOFF,
        f"It waits until {_time(facts.retry_at)} (in {_ago(facts.retry_at, facts.now)}) for retry "
        f"{facts.try_number} of {facts.retries}: see the log of try {facts.try_number}; "
        "clear the task to try at once.",
    )


def _reschedule(facts: Facts) -> Reason | None:
    if facts.reschedule_at is None or facts.reschedule_at <= facts.now:
        return None
    return Reason(
        Code.RESCHEDULED,
        f"It is a sensor between two looks, the next at {_time(facts.reschedule_at)}: "
        "its log says what it looks for.",
    )


def _upstream(facts: Facts) -> Reason | None:
    if facts.waits_for:
        rule = "" if facts.trigger_rule == "all_success" else f" (rule {facts.trigger_rule})"
        count = _count(len(facts.waits_for), "upstream task instance")
        return Reason(
            Code.UPSTREAM,
            f"It waits for {count}{rule}: ask the same of the first that does not run.",
            facts.waits_for,
        )
    if facts.unmet:
        return Reason(Code.DEPENDENCY, " ".join(facts.unmet))
    return None


def _deferred(facts: Facts) -> Reason:
    trigger = facts.trigger
    if trigger is None:
        text = "It is deferred, and its trigger has just fired: ask again in a few seconds."
        return Reason(Code.DEFERRED, text)
    text = f"It is deferred to {trigger.classpath} since {_time(trigger.since)}"
    if not trigger.has_triggerer:
        return Reason(
            Code.DEFERRED, f"{text}, and no triggerer has taken that yet: see make status."
        )
    remedy = "it goes on when that fires, see the triggerer's part of its log"
    return Reason(Code.DEFERRED, f"{text}: {remedy}.")


def _awaiting_input(_facts: Facts) -> Reason:
    return Reason(Code.AWAITING_INPUT, "It waits for a person: answer its question in the UI.")


def _pool(facts: Facts) -> Reason | None:
    name, pool = facts.pool_name, facts.pool
    if pool is None:
        return Reason(
            Code.NO_POOL, f"Pool {name} does not exist: create it in the UI, or name another."
        )
    if not pool.is_reached:
        return None
    more = f"raise {facts.pool_variable} in .env" if facts.pool_variable else "give it more slots"
    if pool.needed > pool.size:
        return Reason(
            Code.POOL_FULL,
            f"It takes {_count(pool.needed, 'slot')} of pool {name}, which has {pool.size:g}, "
            f"so it can never run: {more}.",
        )
    needs = f", it needs {pool.needed}" if pool.needed > 1 else ""
    return Reason(
        Code.POOL_FULL,
        f"Pool {name} is full, {pool.used} of {pool.size:g} slots are taken{needs}: "
        f"wait for these, or {more}.",
        pool.holders,
    )


def _max_active_tasks(facts: Facts) -> Reason | None:
    return _reached(
        facts.max_active_tasks,
        Code.MAX_ACTIVE_TASKS,
        f"The run has reached max_active_tasks={{size:g}} of DAG {facts.dag_id}",
        "raise it in the DAG or MAX_ACTIVE_TASKS_PER_DAG in .env",
    )


def _task_limits(facts: Facts) -> Reason | None:
    per_dag, per_run = "max_active_tis_per_dag", "max_active_tis_per_dagrun"
    text, remedy = "The task has reached its {name}={{size:g}}", "raise it in the DAG"
    return _reached(facts.per_dag, Code.TASK_LIMIT, text.format(name=per_dag), remedy) or _reached(
        facts.per_run, Code.TASK_LIMIT, text.format(name=per_run), remedy
    )


def _parallelism(facts: Facts) -> Reason | None:
    return _reached(
        facts.parallelism,
        Code.PARALLELISM,
        "PARALLELISM is reached, {size:g} task instances are queued or running",
        "raise it in .env, in step with the workers' slots",
    )


def _reached(limit: Limit | None, code: Code, text: str, remedy: str) -> Reason | None:
    if limit is None or not limit.is_reached:
        return None
    found = text.format(size=limit.size)
    return Reason(code, f"{found}: wait for these, or {remedy}.", limit.holders)


def _scheduler(facts: Facts) -> Reason:
    seen, remedy = facts.scheduler_seen_at, "look at make status and its log"
    if seen is None:
        return Reason(Code.NO_SCHEDULER, f"No scheduler is running: {remedy}.")
    if facts.now - seen > timedelta(seconds=facts.scheduler_patience_s):
        silence = f"No scheduler has given a heartbeat for {_ago(facts.now, seen)}"
        return Reason(Code.NO_SCHEDULER, f"{silence}: {remedy}.")
    return Reason(
        Code.NOT_LOOKED_AT,
        "Nothing holds it, the scheduler has yet to look at it: ask again in a few seconds.",
    )


def _broker_down(facts: Facts) -> Reason | None:
    error = _broker(facts).error
    if not error:
        return None
    return Reason(
        Code.BROKER_DOWN, f"It is queued, and Redis gives no answer ({error}): see make status."
    )


def _taken(facts: Facts) -> Reason | None:
    broker = _broker(facts)
    if not broker.at_worker:
        return None
    return Reason(
        Code.TAKEN,
        f"Worker {broker.at_worker} has taken it and starts it: ask again in a few seconds.",
    )


def _no_worker(facts: Facts) -> Reason | None:
    broker = _broker(facts)
    if broker.ahead is None or broker.workers:
        return None
    start = f"start {facts.worker_pool}" if facts.worker_pool else "start one"
    return Reason(
        Code.NO_WORKER,
        f"No worker consumes queue {facts.queue}, in which {broker.waiting} wait: "
        f"{start}, see make status.",
    )


def _queue(facts: Facts) -> Reason | None:
    broker = _broker(facts)
    if broker.ahead is None:
        return None
    place = f"Queue {facts.queue} has {broker.waiting} waiting, {broker.ahead} of them before it"
    if len(broker.busy) >= broker.slots:
        return Reason(
            Code.QUEUE_BUSY,
            f"{place}, and its workers' {_count(broker.slots, 'slot')} are all busy: "
            f"wait for these, or start more of {facts.worker_pool or 'its workers'}.",
            broker.busy,
        )
    free = f"{place}, and {broker.slots - len(broker.busy)} of {broker.slots} slots are free"
    if _waited(facts) <= TAKE_PATIENCE:
        return Reason(Code.QUEUE_MOVES, f"{free}: ask again in a few seconds.")
    return Reason(
        Code.WORKER_STUCK,
        f"{free}, yet nobody has taken it for {_seconds(_waited(facts))}: "
        f"restart {', '.join(broker.workers)}.",
    )


def _taker_gone(facts: Facts) -> Reason | None:
    taken_at = _broker(facts).taken_at
    if taken_at is None:
        return None
    return Reason(
        Code.TAKER_GONE,
        f"A worker took it at {_time(taken_at)} and is gone; Redis delivers it again "
        "VISIBILITY_TIMEOUT_S later. The scheduler publishes it again after a minute; clear the task if it does not.",
    )


def _publishing(facts: Facts) -> Reason | None:
    if _waited(facts) > PUBLISH_PATIENCE:
        return None
    return Reason(
        Code.PUBLISHING, "The scheduler is just publishing it: ask again in a few seconds."
    )


def _lost(facts: Facts) -> Reason:
    return Reason(
        Code.LOST,
        f"It is lost: queued for {_seconds(_waited(facts))}, but neither in Redis nor at a worker. "
        "The scheduler publishes it again after two looks, MESSAGE_CHECK_S apart. Clear the task if it does not.",
    )


def _running(facts: Facts) -> Reason:
    where = facts.worker or "a worker"
    since = "" if facts.started_at is None else f" since {_time(facts.started_at)}"
    for_s = "" if facts.started_at is None else f" ({_ago(facts.now, facts.started_at)})"
    return Reason(
        Code.RUNNING,
        f"It is {facts.state}: on {where}{since}{for_s}, try {facts.try_number} "
        f"of {facts.retries + 1}.",
    )


def _done(facts: Facts) -> Reason:
    when = "" if facts.ended_at is None else f" since {_time(facts.ended_at)}"
    where = f" on {facts.worker}" if facts.worker else ""
    return Reason(Code.DONE, f"It is done: {facts.state}{when}{where}. Clear it to run it again.")


CHECKS: Mapping[str | None, Sequence[Check]] = {
    None: (_paused, _stale, _run, _upstream, _scheduler),
    "up_for_retry": (_paused, _stale, _run, _backoff, _upstream, _scheduler),
    "up_for_reschedule": (_paused, _stale, _run, _reschedule, _upstream, _scheduler),
    "scheduled": (
        _paused,
        _run,
        _pool,
        _max_active_tasks,
        _task_limits,
        _parallelism,
        _scheduler,
    ),
    "queued": (_broker_down, _taken, _no_worker, _queue, _taker_gone, _publishing, _lost),
    "deferred": (_deferred,),
    "awaiting_input": (_awaiting_input,),
    "running": (_running,),
    "restarting": (_running,),
}  # in every other state it is done


def _broker(facts: Facts) -> Broker:
    assert facts.broker is not None, "a queued task's facts hold what the broker says"  # noqa: S101
    return facts.broker


def _waited(facts: Facts) -> timedelta:
    return facts.now - (facts.queued_at or facts.now)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z")


def _ago(later: datetime, earlier: datetime) -> str:
    return _seconds(later - earlier)


def _seconds(span: timedelta) -> str:
    """Give a span in the largest unit that leaves a number of two digits or more: 95 s, 26 min."""
    seconds = span.total_seconds()
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 10 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""One answer for each thing that can hold a task: kind, sentence with the remedy, and who holds it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from celery_stack.why.__main__ import lines_of, split_task
from celery_stack.why.broker import look_into_broker
from celery_stack.why.facts import Broker, Facts, Holder, Limit, Run, Trigger
from celery_stack.why.judge import CHECKS, Code, Reason, judge

NOW = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
OTHER = (Holder("etl run load", "running", "worker-1"),)
FULL, ROOMY = Limit(4, 4, OTHER), Limit(4, 3, OTHER)
RUNNING = Run("running", NOW, Limit(1, 1))
# Nothing holds it, in whichever state it is.
FREE = Facts(
    now=NOW,
    dag_id="etl",
    state=None,
    run=RUNNING,
    queue="cpu_train",
    worker_pool="worker-cpu-train",
    try_number=1,
    retries=2,
    pool_name="pg_io",
    pool_variable="PG_IO_SLOTS",
    pool=ROOMY,
    max_active_tasks=ROOMY,
    per_dag=ROOMY,
    per_run=ROOMY,
    parallelism=ROOMY,
    scheduler_seen_at=NOW,
)
SCHEDULED = replace(FREE, state="scheduled")
MINUTE = timedelta(minutes=1)
IN_LINE = Broker(waiting=3, ahead=2, workers=["worker-cpu-train-1@here"], slots=1)


def queued(broker: Broker, waited: timedelta = MINUTE) -> Facts:
    return replace(FREE, state="queued", broker=broker, queued_at=NOW - waited)


@pytest.mark.parametrize(
    ("facts", "code", "sentence"),
    [
        (
            replace(FREE, paused="DAG etl"),
            Code.PAUSED,
            'DAG etl is paused: unpause it in the UI, or: make airflow ARGS="dags unpause etl".',
        ),
        (replace(FREE, paused="Backfill 3"), Code.PAUSED, "Backfill 3 is paused: unpause it in"),
        (replace(FREE, is_stale=True), Code.STALE_DAG, "make check-dags"),
        (replace(FREE, run=Run("failed", NOW, ROOMY)), Code.RUN_OVER, "has ended (failed)"),
        (
            replace(FREE, run=Run("queued", NOW + MINUTE, ROOMY)),
            Code.RUN_NOT_DUE,
            "not due before 2026-03-02 03:01:00 UTC",
        ),
        (
            replace(FREE, run=Run("queued", NOW, Limit(1, 1, OTHER))),
            Code.RUN_QUEUED,
            "Its run is queued behind max_active_runs=1: wait for these runs, or raise",
        ),
        (replace(FREE, run=Run("queued", NOW, ROOMY)), Code.NOT_LOOKED_AT, "yet to look"),
        (
            replace(FREE, waits_for=OTHER),
            Code.UPSTREAM,
            "It waits for 1 upstream task instance: ask the same",
        ),
        (
            replace(FREE, waits_for=OTHER * 2, trigger_rule="all_done"),
            Code.UPSTREAM,
            "It waits for 2 upstream task instances (rule all_done)",
        ),
        (replace(FREE, unmet=["depends_on_past is true."]), Code.DEPENDENCY, "depends_on_past"),
        (
            replace(FREE, state="up_for_retry", retry_at=NOW + MINUTE),
            Code.BACKOFF,
            "It waits until 2026-03-02 03:01:00 UTC (in 60 s) for retry 1 of 2",
        ),
        (replace(FREE, state="up_for_retry", retry_at=NOW), Code.NOT_LOOKED_AT, "yet to look"),
        (
            replace(FREE, state="up_for_reschedule", reschedule_at=NOW + MINUTE),
            Code.RESCHEDULED,
            "between two looks, the next at 2026-03-02 03:01:00 UTC",
        ),
        (
            replace(FREE, state="deferred", trigger=Trigger("triggers.Moment", NOW, True)),
            Code.DEFERRED,
            "deferred to triggers.Moment since 2026-03-02 03:00:00 UTC: it goes on when that fires",
        ),
        (
            replace(FREE, state="deferred", trigger=Trigger("triggers.Moment", NOW, False)),
            Code.DEFERRED,
            "no triggerer has taken that yet",
        ),
        (replace(FREE, state="deferred"), Code.DEFERRED, "its trigger has just fired"),
        (replace(FREE, state="awaiting_input"), Code.AWAITING_INPUT, "answer its question"),
        (replace(SCHEDULED, pool=None), Code.NO_POOL, "Pool pg_io does not exist"),
        (
            replace(SCHEDULED, pool=FULL),
            Code.POOL_FULL,
            "Pool pg_io is full, 4 of 4 slots are taken: wait for these, or raise PG_IO_SLOTS",
        ),
        (
            replace(SCHEDULED, pool=Limit(4, 3, OTHER, needed=2)),
            Code.POOL_FULL,
            "3 of 4 slots are taken, it needs 2",
        ),
        (
            replace(SCHEDULED, pool=Limit(4, 0, needed=5), pool_variable=""),
            Code.POOL_FULL,
            "It takes 5 slots of pool pg_io, which has 4, so it can never run: give it more",
        ),
        (
            replace(SCHEDULED, max_active_tasks=FULL),
            Code.MAX_ACTIVE_TASKS,
            "The run has reached max_active_tasks=4 of DAG etl",
        ),
        (replace(SCHEDULED, per_dag=FULL), Code.TASK_LIMIT, "its max_active_tis_per_dag=4"),
        (replace(SCHEDULED, per_run=FULL), Code.TASK_LIMIT, "its max_active_tis_per_dagrun=4"),
        (replace(SCHEDULED, parallelism=FULL), Code.PARALLELISM, "PARALLELISM is reached, 4 task"),
        (SCHEDULED, Code.NOT_LOOKED_AT, "Nothing holds it, the scheduler has yet to look"),
        (
            replace(SCHEDULED, per_dag=None, per_run=None, scheduler_seen_at=NOW - MINUTE),
            Code.NO_SCHEDULER,
            "No scheduler has given a heartbeat for 60 s",
        ),
        (
            replace(SCHEDULED, scheduler_seen_at=None),
            Code.NO_SCHEDULER,
            "No scheduler is running: look at make status",
        ),
        (
            queued(Broker(error="Connection refused")),
            Code.BROKER_DOWN,
            "Redis gives no answer (Connection refused)",
        ),
        (
            queued(replace(IN_LINE, workers=[], slots=0)),
            Code.NO_WORKER,
            "No worker consumes queue cpu_train, in which 3 wait: start worker-cpu-train",
        ),
        (
            queued(replace(IN_LINE, busy=OTHER)),
            Code.QUEUE_BUSY,
            "Queue cpu_train has 3 waiting, 2 of them before it, and its workers' 1 slot",
        ),
        (
            queued(IN_LINE, timedelta(seconds=1)),
            Code.QUEUE_MOVES,
            "1 of 1 slots are free: ask again",
        ),
        (
            queued(IN_LINE),
            Code.WORKER_STUCK,
            "nobody has taken it for 60 s: restart worker-cpu-train-1@here",
        ),
        (
            queued(Broker(taken_at=NOW, at_worker="worker-1@here")),
            Code.TAKEN,
            "Worker worker-1@here has taken it",
        ),
        (
            queued(Broker(taken_at=NOW)),
            Code.TAKER_GONE,
            "A worker took it at 2026-03-02 03:00:00 UTC and is gone",
        ),
        (queued(Broker(), timedelta(seconds=1)), Code.PUBLISHING, "just publishing it"),
        (
            queued(Broker(), timedelta(minutes=26)),
            Code.LOST,
            "It is lost: queued for 26 min, but neither in Redis nor at a worker. The scheduler",
        ),
        (
            replace(FREE, state="running", worker="worker-1", started_at=NOW - MINUTE),
            Code.RUNNING,
            "It is running: on worker-1 since 2026-03-02 02:59:00 UTC (60 s), try 1 of 3.",
        ),
        (replace(FREE, state="restarting"), Code.RUNNING, "It is restarting: on a worker, try"),
        (
            replace(FREE, state="success", worker="worker-1", ended_at=NOW),
            Code.DONE,
            "It is done: success since 2026-03-02 03:00:00 UTC on worker-1.",
        ),
        (replace(FREE, state="upstream_failed"), Code.DONE, "It is done: upstream_failed."),
    ],
)
def test_each_obstacle_has_its_answer(facts: Facts, code: Code, sentence: str):
    """The kind, and a sentence that says what was found and what to do."""
    reason = judge(facts)
    assert reason.code == code
    assert sentence in reason.text


@pytest.mark.parametrize(
    "facts",
    [
        replace(FREE, run=Run("queued", NOW, Limit(1, 1, OTHER))),
        replace(FREE, waits_for=OTHER),
        replace(SCHEDULED, pool=FULL),
        replace(SCHEDULED, max_active_tasks=FULL),
        replace(SCHEDULED, per_run=FULL),
        replace(SCHEDULED, parallelism=FULL),
        queued(replace(IN_LINE, busy=OTHER)),
    ],
)
def test_who_holds_it_is_named(facts: Facts):
    """Wherever others are in the way, the answer lists them."""
    assert judge(facts).holders == OTHER


def test_every_kind_of_answer_is_tested():
    """No kind is left without a case above."""
    [parameters] = [
        mark for mark in test_each_obstacle_has_its_answer.pytestmark if mark.name == "parametrize"
    ]
    assert {code for _, code, _ in parameters.args[1]} == set(Code)


def test_what_the_scheduler_comes_to_first_is_the_answer():
    """A paused DAG hides everything behind it, a full pool hides parallelism."""
    held = replace(SCHEDULED, paused="DAG etl", pool=FULL, parallelism=FULL)
    assert judge(held).code == Code.PAUSED
    assert judge(replace(held, paused="")).code == Code.POOL_FULL


def test_pause_does_not_hold_what_is_queued_already():
    """Its message is in Redis, and workers ask nobody."""
    facts = replace(queued(IN_LINE), paused="DAG etl")
    assert judge(facts).code == Code.WORKER_STUCK


def test_every_state_of_airflow_gets_an_answer():
    """States that end a task fall through to `done`; every other one is in the table."""
    from airflow.utils.state import State

    assert {state and str(state) for state in State.unfinished} <= CHECKS.keys()
    assert not {str(state) for state in State.finished} & CHECKS.keys()


def test_long_lists_of_holders_are_cut():
    """Ten are shown, the rest is a number."""
    lines = lines_of(Reason(Code.PARALLELISM, "Full.", OTHER * 12))
    assert lines[:2] == ["Full.", "  etl run load  running  worker-1"]
    assert (len(lines), lines[-1]) == (12, "  and 2 more")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("load", ("load", -1)), ("a.train[12]", ("a.train", 12)), ("x[y]", ("x[y]", -1))],
)
def test_mapped_instance_is_named_with_its_index(text: str, parts: tuple[str, int]):
    """As the UI and `make train` show it."""
    assert split_task(text) == parts


def test_unreachable_broker_is_an_answer():
    """It says so at once and does not try for ever."""
    look = look_into_broker(Celery(broker="redis://127.0.0.1:1/0"), "default", "id")
    assert "refused" in look.error

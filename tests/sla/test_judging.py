"""Runs that people meddle with: given up, marked, cleared, with promises that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import pytest

from celery_stack.sla import run_sla, task_sla
from celery_stack.sla.misses import GIVEN_UP
from tests.exporter import Exporter
from tests.sla.looks import DUE, verdicts
from tests.sla.runs import Metadata, minutes


def test_promise_that_makes_no_sense_keeps_no_other_from_being_kept(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """It is logged, or shortened to what can be promised."""
    version = metadata.declare([run_sla(minutes=30), task_sla("load", minutes=30)])
    metadata.run(version, due=DUE)
    metadata.run(metadata.declare([task_sla("ever", minutes=1)]), "other", due=DUE)
    change = "update deadline_alert set reference = jsonb_set(reference::jsonb, %s, %s)::json where name = %s"
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute(change, ("{seconds}", '"soon"', "load"))
        connection.execute(change, ("{seconds}", "1e12", "ever"))
    looks(DUE + minutes(60))
    assert verdicts(metadata) == {"run": "missed", "ever": "pending"}


def test_run_that_is_given_up_is_missed_and_what_was_done_before_is_met(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """Marked as failed: Airflow skips at that moment what has not run. A branch not taken was skipped before."""
    names = ("done", "branch", "given_up")
    version = metadata.declare([run_sla(minutes=30), *(task_sla(n, minutes=30) for n in names)])
    metadata.run(version, due=DUE)
    metadata.task("done", "success", started=DUE, ended=DUE + minutes(2))
    metadata.task("branch", "skipped", started=DUE + minutes(2), ended=DUE + minutes(2))
    marked = DUE + minutes(10)
    metadata.task("given_up", "skipped", started=marked, ended=marked - timedelta(seconds=0.1))
    metadata.end(marked, "failed")
    looks(DUE + minutes(20))
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {
        "run": "missed",
        "done": "met",
        "branch": "met",
        "given_up": "missed",
    }
    reasons = {record["name"]: record["reason"] for record in metadata.records()}
    assert reasons["given_up"] == reasons["run"] == GIVEN_UP


def test_run_that_timed_out_is_missed(metadata: Metadata, looks: Callable[[datetime], None]):
    """Its tasks are skipped: one that ran has no end, one between two tries that of the failed one."""
    version = metadata.declare(
        [run_sla(minutes=30), task_sla("retried", minutes=30), task_sla("ran", minutes=30)]
    )
    metadata.run(version, due=DUE)
    metadata.task("retried", "failed", started=DUE, ended=DUE + minutes(5))
    metadata.clear("retried")
    metadata.task("retried", "skipped", started=DUE, ended=DUE + minutes(5))
    metadata.task("ran", "skipped", started=DUE)
    metadata.end(DUE + minutes(20), "failed")
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {"run": "missed", "retried": "missed", "ran": "missed"}


def test_what_fail_fast_skips_is_missed(metadata: Metadata, looks: Callable[[datetime], None]):
    """It is skipped with the failure, some time before the scheduler ends the run."""
    version = metadata.declare([task_sla("branch", minutes=30), task_sla("stopped", minutes=30)])
    metadata.run(version, due=DUE)
    metadata.task("branch", "skipped", started=DUE, ended=DUE + minutes(2))
    metadata.task("load", "failed", started=DUE, ended=DUE + minutes(5))
    metadata.task("stopped", "skipped", started=DUE + minutes(5), ended=DUE + minutes(5))
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("update dag set fail_fast = true")
    looks(DUE + minutes(6))
    assert verdicts(metadata) == {"branch": "met", "stopped": "pending"}
    metadata.end(DUE + minutes(7), "failed")
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {"branch": "met", "stopped": "missed"}


def test_run_whose_tasks_all_ended_well_and_that_is_failed_is_missed(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """Not finished in success, whatever its tasks say; cleared after it was, it had been."""
    version = metadata.declare([run_sla(minutes=30)])
    for run_id, cleared in (("marked", False), ("cleared", True)):
        metadata.run(version, run_id, due=DUE)
        metadata.task("load", "success", run_id=run_id, started=DUE, ended=DUE + minutes(5))
        if cleared:
            metadata.clear("load", run_id=run_id)
            metadata.task("load", "failed", run_id=run_id, started=DUE, ended=DUE + minutes(9))
        metadata.end(DUE + minutes(20), "failed", run_id)
    looks(DUE + minutes(40))
    by_run = {record["run_id"]: record["verdict"] for record in metadata.records()}
    assert by_run == {"marked": "missed", "cleared": "met"}


def test_given_up_cleared_and_run_again_counts_from_when_it_is_done(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """The skip of a run that was given up does not become a success when somebody clears it."""
    metadata.run(metadata.declare([task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "skipped", started=DUE + minutes(9), ended=DUE + minutes(9))
    metadata.clear("load")
    looks(DUE + minutes(20))
    assert verdicts(metadata) == {"load": "pending"}
    metadata.task("load", "success", started=DUE + minutes(35), ended=DUE + minutes(40))
    looks(DUE + minutes(41))
    assert verdicts(metadata) == {"load": "missed"}


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "restarting"])
def test_cleared_while_it_ran_is_not_done(
    metadata: Metadata, looks: Callable[[datetime], None], state: str | None
):
    """Until it starts again its row keeps the end of the try that was cut off."""
    metadata.run(metadata.declare([task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "running", started=DUE)
    metadata.clear("load")
    metadata.task("load", state, started=DUE, ended=DUE + minutes(5))
    looks(DUE + minutes(6))
    assert verdicts(metadata) == {"load": "pending"}
    looks(DUE + minutes(31))
    assert verdicts(metadata) == {"load": "missed"}


@pytest.mark.parametrize("before", ["failed", "up_for_retry"])
def test_marked_as_success_after_the_miss_stays_missed(
    metadata: Metadata, looks: Callable[[datetime], None], exporter: Exporter, before: str
):
    """It keeps the end of its last try, which was in time; nothing is late by less than nothing."""
    metadata.run(metadata.declare([run_sla(minutes=30), task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", before, started=DUE, ended=DUE + minutes(5))
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {"run": "missed", "load": "missed"}
    metadata.task("load", "success", started=DUE, ended=DUE + minutes(5))
    metadata.end(DUE + minutes(50))
    looks(DUE + minutes(51))
    assert verdicts(metadata) == {"run": "missed", "load": "missed"}
    assert all(record["finished"] > record["promised"] for record in metadata.records())
    late = [line for line in exporter.look() if "lateness" in line]
    assert len(late) == 2
    assert not [line for line in late if ":0.000000|ms" in line]


@pytest.mark.parametrize(("marked", "verdict"), [(20, "met"), (50, "missed")])
def test_marked_as_success_between_two_tries_while_nobody_looked(
    metadata: Metadata, looks: Callable[[datetime], None], marked: float, verdict: str
):
    """When it was marked counts, not the end of the failed try."""
    metadata.run(metadata.declare([task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "failed", started=DUE, ended=DUE + minutes(5))
    metadata.clear("load")
    metadata.task("load", "success", started=DUE, ended=DUE + minutes(5))
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("update task_instance set updated_at = %s", (DUE + minutes(marked),))
    looks(DUE + minutes(60))
    assert verdicts(metadata) == {"load": verdict}

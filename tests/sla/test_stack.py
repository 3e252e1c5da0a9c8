"""Misses and their mails on the whole stack, with two of everything that may be doubled.

All runs are started in the fixture; the tests wait for what becomes of them.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.sla.promised import TEAM, Promised, body
from tests.waiting import wait_for

pytestmark = pytest.mark.sla


def test_finished_late_before_anyone_looked(promised: Promised):
    """The monitor comes back and tells of it: when it finished counts."""
    record = promised.wait_for_verdict("unseen", "run", "missed")
    assert record.finished > record.promised
    assert record.finished < record.created_at, "it was recorded after it had finished"
    assert record.reason.startswith("It started ")
    mail = promised.wait_for_mail("unseen")
    assert promised.receivers(mail) == [TEAM]


def test_late_run_and_its_late_task_make_one_mail(promised: Promised):
    """Subject, both promises, the task that holds it, a link, the end of its log; text and HTML."""
    promised.wait_for_verdict("late", "run", "missed")
    record = promised.wait_for_verdict("late", "slow", "missed")
    assert record.state == "running"
    assert "It is running" in record.reason
    mail = promised.wait_for_mail("late")
    for text in (body(mail), body(mail, "html")):
        assert "slow" in text
        assert promised.stack.client.url in text
    assert "waiting for the gate" in body(mail)


def test_never_started_because_its_queue_has_no_worker(promised: Promised):
    """The mail says which worker to start, and goes to whom the SLA names."""
    record = promised.wait_for_verdict("without_worker", "train", "missed")
    assert record.state == "queued"
    assert "start worker-cpu-train" in record.reason
    mail = promised.wait_for_mail("without_worker")
    assert promised.receivers(mail) == ["ml@example.org"]
    assert "worker-cpu-train" in body(mail)


def test_waiting_for_the_pool(promised: Promised):
    """Named with its pool and who is in it."""
    record = promised.wait_for_verdict("waiting_for_pool", "wants", "missed")
    assert "Pool pg_io is full" in record.reason
    assert [task["task"] for task in record.blocking] == ["wants"]
    promised.wait_for_mail("waiting_for_pool")


def test_failed_run_is_told_of_twice_for_two_causes(promised: Promised):
    """At once that it failed, with the log; when it is due, that it is late."""
    failure = promised.wait_for_mail("failing", sla=False)
    assert "the reason in the log" in body(failure)
    record = promised.wait_for_verdict("failing", "run", "missed")
    assert record.state == "failed"
    assert [task["task"] for task in record.blocking] == ["fail"]
    promised.wait_for_mail("failing")


def test_paused_dag(promised: Promised):
    """Its run is late, and why is said."""
    promised.wait_for_verdict("on_pause", "run", "missed")
    assert "paused" in body(promised.wait_for_mail("on_pause"))


def test_variable_shortens_the_promise(promised: Promised):
    """As it was when the run was created; the DAG promises two hours."""
    record = promised.wait_for_verdict("changed", "run", "missed")
    assert record.promised - record.due_from == timedelta(seconds=6)
    promised.wait_for_mail("changed")


def test_task_in_time_while_the_run_goes_on(promised: Promised):
    """Met, and Airflow marks nothing: it has no deadline for a task."""
    promised.wait_for_verdict("goes_on", "quick", "met")
    run_id = promised.runs["goes_on"]
    assert promised.stack.client.run_state("goes_on", run_id) == "running"
    marked = "select d.* from deadline d join dag_run r on r.id = d.dagrun_id where r.dag_id = %s"
    assert promised.stack.metadata(marked, "goes_on") == []
    [deadline] = promised.stack.metadata(marked, "late")
    record = promised.records("late")["run"]
    assert abs(deadline.deadline_time - record.promised) < timedelta(seconds=1)


def test_done_in_time_and_cleared_afterwards(promised: Promised):
    """Counted as met at once, whatever is run again; clearing works."""
    for name in ("run", "quick"):
        promised.wait_for_verdict("in_time", name, "met")
    path = "/api/v2/dags/in_time/clearTaskInstances"
    what = {"dry_run": False, "dag_run_id": promised.runs["in_time"], "only_failed": False}
    promised.stack.client._send("POST", path, json=what | {"reset_dag_runs": True})
    promised.stack.wait_for_end("in_time", promised.runs["in_time"])
    assert {record.verdict for record in promised.records("in_time").values()} == {"met"}


def test_backfill_of_ten_old_runs_is_no_storm(promised: Promised):
    """Their clock starts when they are created."""
    query = "select * from sla.record where dag_id = 'daily' and run_id like 'backfill%%'"
    records = wait_for(
        lambda: promised.stack.metadata(query),
        lambda rows: [row.verdict for row in rows] == ["met"] * 10,
        deadline_s=120,
    )
    newest = datetime.now(UTC) - timedelta(minutes=10)
    assert all(record.due_from > newest for record in records)
    told = "select * from sla.mail where dag_id = 'daily' and run_id like 'backfill%%'"
    assert promised.stack.metadata(told) == []


def test_scheduled_run(promised: Promised):
    """Its clock starts when it was due; the scheduler reads the Variable."""
    query = (
        "select k.*, r.run_after from sla.record k join dag_run r using (dag_id, run_id)"
        " where k.dag_id = 'every_minute' and verdict = 'met'"
    )
    first = wait_for(lambda: promised.stack.metadata(query), bool, deadline_s=120)[0]
    assert first.due_from == first.run_after
    assert first.promised - first.due_from == timedelta(minutes=5)


def test_scheduler_down_across_the_deadline(promised: Promised):
    """What was done in time is met though no scheduler saw it; what was not is told of meanwhile."""
    stack, run_id = promised.stack, promised.start("seen_late")
    promised.wait_until_it_runs("seen_late")
    promised.program("scheduler", start=False)
    promised.others["scheduler"].suspend()
    try:
        promised.gate.touch()
        promised.wait_for_verdict("seen_late", "run", "met")
        assert stack.client.run_state("seen_late", run_id) == "running"
        promised.start("without_scheduler")
        record = promised.wait_for_verdict("without_scheduler", "run", "missed")
        assert record.state == "queued"
        promised.wait_for_mail("without_scheduler")
    finally:
        promised.others["scheduler"].resume()
        promised.program("scheduler", start=True)
        promised.gate.unlink(missing_ok=True)
    assert stack.wait_for_end("seen_late", run_id) == "success"


def test_triggerers_down_across_the_deadline(promised: Promised):
    """Neither the miss nor the mail waits for them; when they are back nobody is told again."""
    promised.program("triggerer", start=False)
    promised.others["triggerer"].suspend()
    try:
        promised.start("without_triggerer")
        promised.wait_for_verdict("without_triggerer", "run", "missed")
        promised.wait_for_mail("without_triggerer")
    finally:
        promised.others["triggerer"].resume()
        promised.program("triggerer", start=True)


def test_cleared_while_its_promise_is_pending(promised: Promised, tmp_path: Path):
    """What counts is the try that finishes: the one that was cut off neither keeps nor breaks it."""
    gate = tmp_path / "gate"
    run_id = promised.start("cleared", gate)
    promised.wait_until_it_runs("cleared")
    [record] = wait_for(lambda: list(promised.records("cleared").values()), bool, deadline_s=30)
    assert record.verdict == "pending"
    client = promised.stack.client
    what = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "only_running": True}
    client._send("POST", "/api/v2/dags/cleared/clearTaskInstances", json=what)
    [task] = wait_for(
        lambda: client.tasks("cleared", run_id),
        lambda tasks: [(one.state, one.try_number) for one in tasks] == [("running", 2)],
        deadline_s=60,
    )
    assert promised.records("cleared")["slow"].verdict == "pending", task
    gate.touch()
    promised.wait_for_verdict("cleared", "slow", "met")


def test_sender_killed_in_the_middle(promised: Promised):
    """The other monitor sends the mail again, under the same Message-ID."""
    asked, answered = threading.Event(), threading.Event()
    promised.mail.release = lambda: (asked.set(), answered.wait(timeout=90))
    promised.start("cut_off")
    assert asked.wait(timeout=60), "nobody sends"
    promised.leader().kill()
    answered.set()
    query = "select * from sla.mail where dag_id = 'cut_off' and state = 'sent'"
    [row] = wait_for(lambda: promised.stack.metadata(query), bool, deadline_s=90)
    ids = promised.mail.message_ids
    assert 1 <= ids.count(row.message_id) <= 2
    promised.gate.touch()


def test_nobody_is_told_twice(promised: Promised):
    """Two schedulers, two triggerers, two monitors: no mail of a missed SLA came twice."""
    query = "select message_id, state from sla.mail where dag_id <> 'cut_off'"
    known = {row.message_id: row.state for row in promised.stack.metadata(query)}
    ids = promised.mail.message_ids
    assert {ids.count(one) for one in known} == {1}
    assert set(known.values()) == {"sent"}
    twice = (
        "select dag_id, run_id from sla.mail where kind = 'sla' group by 1, 2 having count(*) > 1"
    )
    assert promised.stack.metadata(twice) == []

"""What the monitor makes of the metadata: records, verdicts and mails, on a real Postgres."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import pytest

from celery_stack.sla import monitor, run_sla, task_sla
from celery_stack.sla.monitor import Floor
from tests.sla.looks import DUE, TO, verdicts
from tests.sla.runs import DAG, Metadata, minutes


def test_what_is_due_later_is_pending(metadata: Metadata, looks: Callable[[datetime], None]):
    """Nothing is judged before its time, not even what has failed: it may be cleared."""
    metadata.run(metadata.declare([run_sla(hours=1), task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "failed", started=DUE, ended=DUE + minutes(5))
    looks(DUE + minutes(10))
    assert verdicts(metadata) == {"run": "pending", "load": "pending"}
    record = metadata.records()[0]
    assert record["due_from"] == DUE
    assert record["recipients"] == TO
    assert metadata.mails() == []


def test_task_in_time_while_the_run_goes_on(metadata: Metadata, looks: Callable[[datetime], None]):
    """Met at the moment it is seen; the run's own promise is a matter of its own."""
    metadata.run(metadata.declare([run_sla(hours=1), task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "success", started=DUE, ended=DUE + minutes(30))
    metadata.task("train", "running", started=DUE + minutes(30))
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {"run": "pending", "load": "met"}
    assert metadata.mails() == []


def test_finished_late_before_anyone_looked(metadata: Metadata, looks: Callable[[datetime], None]):
    """When it finished counts: a late one is a miss though it is done, and says where the time went."""
    metadata.run(metadata.declare([task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "success", started=DUE + minutes(20), ended=DUE + minutes(31))
    metadata.end(DUE + minutes(31))
    looks(DUE + minutes(90))
    [record] = metadata.records()
    assert record["verdict"] == "missed"
    assert record["finished"] == DUE + minutes(31)
    assert record["reason"] == (
        "It started 20 min 00 s after the clock did and ran for 11 min 00 s."
    )
    [mail] = metadata.mails()
    assert mail["recipients"] == TO
    assert "load" in mail["body_text"]


def test_finished_in_time_before_anyone_looked(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """A monitor that was down changes nothing: met, no mail."""
    metadata.run(metadata.declare([run_sla(hours=1), task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "success", started=DUE, ended=DUE + minutes(29))
    metadata.end(DUE + minutes(59))
    looks(DUE + minutes(119))
    assert verdicts(metadata) == {"run": "met", "load": "met"}
    assert metadata.mails() == []


def test_scheduler_that_saw_the_end_late_makes_no_run_late(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """A run is done when its last task is, whenever the scheduler comes to say so."""
    version = metadata.declare([run_sla(minutes=30)])
    for run_id, end in (("seen", True), ("unseen", False)):
        metadata.run(version, run_id, due=DUE)
        metadata.task("load", "success", run_id=run_id, started=DUE, ended=DUE + minutes(20))
        if end:
            metadata.end(DUE + minutes(50), run_id=run_id)
    looks(DUE + minutes(60))
    assert [record["verdict"] for record in metadata.records()] == ["met", "met"]


def test_one_mail_for_all_that_a_run_misses_at_once(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """What others are told of is theirs; those of the run are told of tasks that name nobody."""
    version = metadata.declare(
        [
            run_sla(minutes=30, to=["boss@example.org"]),
            task_sla("load", minutes=20),
            task_sla("train", minutes=25, to=["ml@example.org"]),
        ]
    )
    metadata.run(version, due=DUE)
    metadata.task("load", "failed", started=DUE, ended=DUE + minutes(3))
    metadata.task("train", "upstream_failed")
    metadata.end(DUE + minutes(3), "failed")
    looks(DUE + minutes(60))
    looks(DUE + minutes(61))
    told = {tuple(mail["recipients"]): mail["body_text"] for mail in metadata.mails()}
    assert told.keys() == {("boss@example.org",), ("ml@example.org",)}
    links = metadata.ask("select mail_id, count(*) from sla.mail_record group by mail_id")
    assert sorted(link["count"] for link in links) == [1, 2]
    states = {record["name"]: record["state"] for record in metadata.records()}
    assert states == {"run": "failed", "load": "failed", "train": "upstream_failed"}
    blocking = next(r["blocking"] for r in metadata.records() if r["name"] == "run")
    assert [task["task"] for task in blocking] == ["load"]


def test_mapped_task_is_done_when_all_its_instances_are(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """Skipped ones are; those that are gone do not count; the worst one speaks for it."""
    version = metadata.declare([task_sla("train", minutes=30), task_sla("score", minutes=30)])
    metadata.run(version, due=DUE)
    for index, state in enumerate(("success", "skipped", "removed")):
        metadata.task("score", state, map_index=index, ended=DUE + minutes(10 + index))
    for index, state in enumerate(("success", "running", "failed")):
        ended = None if state == "running" else DUE + minutes(10)
        metadata.task("train", state, map_index=index, started=DUE, ended=ended)
    looks(DUE + minutes(32))
    assert verdicts(metadata) == {"train": "missed", "score": "met"}
    train, score = metadata.records()
    assert train["state"] == "failed"
    assert {task["task"] for task in train["blocking"]} == {"train[1]", "train[2]"}
    assert score["finished"] == DUE + minutes(11)


def test_cleared_after_it_was_done_in_time(metadata: Metadata, looks: Callable[[datetime], None]):
    """The promise was kept, whether somebody looked in between or not."""
    version = metadata.declare([task_sla("load", minutes=30), task_sla("seen", minutes=20)])
    metadata.run(version, due=DUE)
    for task_id in ("load", "seen"):
        metadata.task(task_id, "success", started=DUE, ended=DUE + minutes(10))
    metadata.clear("load")
    metadata.task("load", "success", started=DUE + minutes(50), ended=DUE + minutes(55))
    looks(DUE + minutes(60))
    assert verdicts(metadata) == {"load": "met", "seen": "met"}
    metadata.clear("seen")
    looks(DUE + minutes(61))
    assert verdicts(metadata)["seen"] == "met"
    assert metadata.mails() == []


def test_miss_that_finishes_later(metadata: Metadata, looks: Callable[[datetime], None]):
    """The record says when; one that was in time, and only told late, was no miss."""
    version = metadata.declare([task_sla("late", minutes=30), task_sla("told_late", minutes=30)])
    metadata.run(version, due=DUE)
    for task_id in ("late", "told_late"):
        metadata.task(task_id, "running", started=DUE)
    looks(DUE + minutes(40))
    assert verdicts(metadata) == {"late": "missed", "told_late": "missed"}
    metadata.task("late", "success", started=DUE, ended=DUE + minutes(45))
    metadata.task("told_late", "success", started=DUE, ended=DUE + minutes(29))
    looks(DUE + minutes(50))
    assert verdicts(metadata) == {"late": "missed", "told_late": "met"}
    assert metadata.records()[0]["finished"] == DUE + minutes(45)
    assert len(metadata.mails()) == 1


def test_running_task_that_may_have_ended_in_time_is_waited_for(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """Its worker may not have been able to say so; a heartbeat, or a minute and a half, decides."""
    version = metadata.declare([task_sla("alive", minutes=30), task_sla("silent", minutes=30)])
    metadata.run(version, due=DUE)
    for task_id in ("alive", "silent"):
        metadata.task(task_id, "running", started=DUE, heard_of=DUE + minutes(29))
    looks(DUE + minutes(31))
    assert verdicts(metadata) == {"alive": "pending", "silent": "pending"}
    metadata.task("alive", "running", started=DUE, heard_of=DUE + minutes(31))
    looks(DUE + minutes(31))
    assert verdicts(metadata) == {"alive": "missed", "silent": "pending"}
    looks(DUE + minutes(31.5))
    assert verdicts(metadata)["silent"] == "missed"


def test_clock_of_manual_and_backfilled_runs_starts_when_they_were_created(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """Ten old runs that make it now are met: no storm."""
    version = metadata.declare([run_sla(minutes=30)])
    for day in range(10):
        old, run_id = DUE - timedelta(days=30 - day), f"backfill {day}"
        metadata.run(version, run_id, due=old, created=DUE, run_type="backfill")
        metadata.task("load", "success", run_id=run_id, started=DUE, ended=DUE + minutes(9))
    metadata.run(version, "manual", due=DUE + minutes(5), created=DUE, run_type="manual")
    looks(DUE + minutes(20))
    by_run = {record["run_id"]: record for record in metadata.records()}
    assert by_run["manual"]["due_from"] == DUE + minutes(5)
    assert by_run["manual"]["verdict"] == "pending"
    backfilled = [record for name, record in by_run.items() if name != "manual"]
    assert {(r["due_from"], r["verdict"]) for r in backfilled} == {(DUE, "met")}
    assert metadata.mails() == []


def test_run_that_catches_up_is_recorded_and_nobody_is_told(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """It was created long after it was promised; one that was due today is told of."""
    version = metadata.declare([run_sla(minutes=30, on_miss="on_call.page")])
    metadata.run(version, "old", due=DUE - timedelta(days=9), created=DUE)
    metadata.run(version, "new", due=DUE - timedelta(hours=9), created=DUE)
    looks(DUE + minutes(1))
    assert [record["verdict"] for record in metadata.records()] == ["missed", "missed"]
    assert [mail["run_id"] for mail in metadata.mails()] == ["new"]
    assert [record["on_miss"] for record in metadata.records()] == ["", "on_call.page"]


def test_look_that_fails_leaves_no_run_out(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch, looks: Callable[[datetime], None]
):
    """However long records cannot be written: the first look that can writes them all."""
    version = metadata.declare([run_sla(hours=4)])
    metadata.run(version, "before", due=DUE)
    looks(DUE)

    def fail(*_: object, **__: object) -> int:
        raise RuntimeError("no space left")

    metadata.run(version, "meanwhile", due=DUE)
    metadata.run(version, "last", due=DUE)
    with monkeypatch.context() as broken:
        broken.setattr(monitor.metadata, "add_records", fail)
        for number in range(5, 60, 5):
            with pytest.raises(RuntimeError):
                looks(DUE + minutes(number))
    looks(DUE + minutes(60))
    assert {record["run_id"] for record in metadata.records()} == {"before", "meanwhile", "last"}


def test_floor_rises_with_looks_that_left_nothing_out():
    """Runs are committed out of the order of their ids: it lags behind by ten minutes."""
    floor = Floor()
    assert floor.at(DUE) == 0
    for number in range(30):
        floor.looked(number, DUE + minutes(number))
    assert floor.at(DUE + minutes(30)) == 19
    assert floor.at(DUE + minutes(300)) == 29


def test_what_is_older_than_the_first_look_was_promised_to_nobody(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """A stack that gets SLAs for the first time tells nothing of its past."""
    version = metadata.declare([run_sla(minutes=30)])
    metadata.run(version, due=DUE - timedelta(days=3))
    looks(DUE)
    assert metadata.records() == []


def test_variable_and_other_versions_of_the_dag(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """A run keeps the promises of its version, and what the Variable said when it was created."""
    first = metadata.declare([run_sla(minutes=30)])
    second = metadata.declare([run_sla(minutes=40, name="soon")])
    metadata.run(first, "first", due=DUE)
    metadata.run(second, "second", due=DUE)
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("insert into sla.interval values (%s, 'second', '', 'soon', 60)", (DAG,))
    looks(DUE)
    promised = {record["run_id"]: record["promised"] - DUE for record in metadata.records()}
    assert promised == {"first": minutes(30), "second": minutes(1)}


def test_run_that_is_deleted_promises_nothing(
    metadata: Metadata, looks: Callable[[datetime], None]
):
    """What is judged stays, as long as the schema does."""
    metadata.run(metadata.declare([run_sla(minutes=30), task_sla("load", minutes=9)]), due=DUE)
    metadata.task("load", "success", started=DUE, ended=DUE)
    metadata.task("train", "running", started=DUE)
    looks(DUE + minutes(10))
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("truncate dag_run cascade")
    looks(DUE + minutes(60))
    assert verdicts(metadata) == {"load": "met"}

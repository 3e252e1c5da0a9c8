"""What the monitor makes of the metadata: records, verdicts and mails, on a real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from celery_stack.sla import monitor, retention, run_sla, task_sla
from celery_stack.sla.mail import Rendered
from celery_stack.sla.monitor import Config, Floor, look, run
from celery_stack.sla.outbox import Undelivered, enqueue
from celery_stack.sla.schema import READABLE
from tests.exporter import Exporter
from tests.sla.runs import DAG, Metadata, minutes
from tests.waiting import wait_for

DUE = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
TO = ["ml@example.org"]
MAIL: dict[str, Any] = {
    "kind": "sla",
    "dag_id": DAG,
    "run_id": "run",
    "recipients": TO,
    "rendered": Rendered("subject", "text", "<p>html</p>"),
}


def config_of(metadata: Metadata, **other: object) -> Config:
    given: dict[str, object] = {
        "database": metadata.sla_url,
        "broker": "redis://127.0.0.1:1/0",
        "smtp": None,
        "base_url": "http://airflow.example.org",
        "default_to": TO,
        "failure_emails": False,
        "check_s": 0.2,
    }
    return Config(**given | other)  # type: ignore[arg-type]


def told(exporter: Exporter, name: str) -> list[tuple[str, str]]:
    """Give the last tag and the value of what came under a name."""
    lines = [line for line in exporter.look() if line.startswith(f"airflow.{name},")]
    parts = (line.rpartition("|")[0].rpartition("=")[2].partition(":") for line in lines)
    return [(tag, value) for tag, _, value in parts]


@pytest.fixture
def looks(metadata: Metadata) -> Iterator[Callable[[datetime], None]]:
    """Give what makes one monitor look, at a moment."""
    floor = Floor()
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        yield lambda now: look(connection, config_of(metadata), floor, now=now)


def verdicts(metadata: Metadata) -> dict[str, str]:
    return {record["name"]: record["verdict"] for record in metadata.records()}


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


def test_two_monitors_tell_once(metadata: Metadata):
    """One leads, and the other takes over when it ends."""
    metadata.run(metadata.declare([run_sla(minutes=30)]), due=DUE)
    first, second = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=run, args=(config_of(metadata), stop)) for stop in (first, second)
    ]
    for thread in threads:
        thread.start()
    try:
        wait_for(metadata.mails, lambda mails: len(mails) == 1, deadline_s=30)
        first.set()
        threads[0].join()
        metadata.run(metadata.declare([run_sla(minutes=30)]), "later", due=DUE)
        wait_for(metadata.mails, lambda mails: len(mails) == 2, deadline_s=30)
    finally:
        for stop in (first, second):
            stop.set()
        for thread in threads:
            thread.join()
    assert [mail["run_id"] for mail in metadata.mails()] == ["run", "later"]


def test_two_that_judge_at_the_same_time_tell_once(metadata: Metadata):
    """Should both lead for a moment, the row decides."""
    metadata.run(metadata.declare([run_sla(minutes=30), task_sla("load", minutes=9)]), due=DUE)
    config, now = config_of(metadata), DUE + minutes(60)

    def look_once() -> None:
        with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
            look(connection, config, Floor(), now=now)

    threads = [threading.Thread(target=look_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(metadata.mails()) == 1


def test_mails_that_did_not_reach_all_are_counted_until_they_did(
    metadata: Metadata, exporter: Exporter
):
    """One of two recipients is enough; a monitor that starts anew takes back what the last one told."""
    mails = {
        "waits": "state = 'pending', attempts = 1, created_at = now() - interval '30 days'",
        "partly": "state = 'sent', refused = '{a@example.org}'",
        "refused": "state = 'refused'",
        "refused_long_ago": "state = 'refused', created_at = now() - interval '2 days'",
        "sent": "state = 'sent'",
        "new": "attempts = 0",
    }
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        for dag_id, state in mails.items():
            enqueue(connection, key=dag_id, **MAIL | {"dag_id": dag_id})
            connection.execute(f"update sla.mail set {state} where dag_id = %s", (dag_id,))  # noqa: S608
        undelivered = Undelivered()
        undelivered.tell(connection)
        expected = dict.fromkeys(mails, 0) | {"waits": 1, "partly": 1, "refused": 1}
        assert {name: int(value) for name, value in told(exporter, "sla.undelivered")} == expected
        connection.execute("delete from sla.mail")
        undelivered.tell(connection)
        assert {
            name: int(value) for name, value in told(exporter, "sla.undelivered")
        } == dict.fromkeys(mails, 0)


@contextmanager
def running_monitors(*configs: Config) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(config, stop)) for config in configs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)


def leaders(metadata: Metadata) -> list[int]:
    """Give the database sessions that hold the lead."""
    found = metadata.ask("select pid from pg_locks where locktype = 'advisory' and granted")
    return [row["pid"] for row in found]


def test_lead_that_is_lost_by_its_connection_alone_is_taken_again(metadata: Metadata):
    """Both monitors live on: one of them leads, judges what is new, and tells once."""
    version = metadata.declare([run_sla(minutes=30)])
    with running_monitors(config_of(metadata), config_of(metadata)):
        for number in range(3):
            [leader] = wait_for(
                lambda: leaders(metadata), lambda pids: len(pids) == 1, deadline_s=30
            )
            metadata.ask(f"select pg_terminate_backend({leader})")
            wait_for(
                lambda lost=leader: [pid for pid in leaders(metadata) if pid != lost],
                lambda others: len(others) == 1,
                deadline_s=30,
            )
            metadata.run(version, f"run {number}", due=DUE)
            wait_for(
                lambda: {mail["run_id"] for mail in metadata.mails()},
                lambda runs, number=number: f"run {number}" in runs,
                deadline_s=30,
            )
    assert len(metadata.mails()) == 3


def test_both_ends_of_a_session_notice_that_the_other_is_gone(metadata: Metadata):
    """The server frees the lead of a monitor whose host is gone; by itself it would take two hours."""
    with monitor._session(config_of(metadata)) as connection:
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        found = [connection.execute(f"show {name}").fetchone() for name in names]
        assert found == [("30",), ("10",), ("3",)]
        assert connection.info.get_parameters()["tcp_user_timeout"] == "60000"


def test_statement_that_is_cancelled_costs_no_lead(metadata: Metadata):
    """Too slow once, or a deadlock: the next look tries again, in the same session."""
    with monitor._session(config_of(metadata)) as connection:
        with monitor._trying("Waiting", connection):
            connection.execute("set statement_timeout = '10ms'")
            connection.execute("select pg_sleep(10)")
        assert connection.execute("select 1").fetchone() == (1,)
        connection.close()
        with (
            pytest.raises(psycopg.OperationalError),
            monitor._trying("Looking", connection),
        ):
            connection.execute("select 1")


def test_what_is_old_is_deleted_but_not_while_its_run_is_there(metadata: Metadata):
    """Judged again, it would be told of again; what is pending stays."""
    version = metadata.declare([run_sla(minutes=30)])
    for run_id in ("old", "old with run", "new"):
        metadata.run(version, run_id, due=DUE)
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        look(connection, config_of(metadata), Floor(), now=DUE + minutes(60))
        connection.execute("update sla.mail set state = 'sent' where run_id <> 'old with run'")
        for aged in (
            "update sla.record set judged_at = now() - interval '91 days' where run_id <> 'new'",
            "update sla.mail set created_at = now() - interval '91 days' where run_id <> 'new'",
        ):
            connection.execute(aged)
        with psycopg.connect(metadata.airflow_url) as airflow:
            for run_id in ("old", "new"):
                insert = "insert into sla.interval values (%s, %s, '', 'run', 9)"
                airflow.execute(insert, (DAG, run_id))
            airflow.execute("delete from dag_run where run_id = 'old'")
        assert retention.prune(connection, days=90) == 3
    assert [record["run_id"] for record in metadata.records()] == ["old with run", "new"]
    assert [mail["run_id"] for mail in metadata.mails()] == ["old with run", "new"]
    assert [row["run_id"] for row in metadata.ask("select run_id from sla.interval")] == ["new"]


def test_monitor_deletes_what_is_old(metadata: Metadata):
    """By itself, from the start on."""
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        enqueue(connection, key="a", **MAIL)
        connection.execute(
            "update sla.mail set state = 'sent', created_at = now() - interval '9 d'"
        )
    with running_monitors(config_of(metadata, keep_days=7)):
        wait_for(metadata.mails, lambda mails: mails == [], deadline_s=30)


def test_metrics_by_dag_and_task(metadata: Metadata, exporter: Exporter):
    """Met and missed are counted once, lateness is told when it is known."""
    metadata.run(metadata.declare([run_sla(minutes=30), task_sla("load", minutes=30)]), due=DUE)
    metadata.task("load", "success", started=DUE, ended=DUE + minutes(20))
    metadata.task("train", "running", started=DUE)
    config, floor = config_of(metadata), Floor()
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        for number in (40, 41):
            look(connection, config, floor, now=DUE + minutes(number))
        assert sorted(exporter.look()) == [
            f"airflow.sla.met,dag_id={DAG},task_id=load:1|c",
            f"airflow.sla.missed,dag_id={DAG},task_id=run:1|c",
        ]
        metadata.task("train", "success", started=DUE, ended=DUE + minutes(42))
        for number in (43, 44):
            look(connection, config, floor, now=DUE + minutes(number))
    [late] = [line for line in exporter.look() if "lateness" in line]
    assert late == f"airflow.sla.lateness,dag_id={DAG},task_id=run:{12 * 60 * 1000:.6f}|ms"


def test_role_of_the_monitor_reads_what_it_judges_by_and_nothing_else(metadata: Metadata):
    """No connection, Variable, XCom or user; it writes nothing of Airflow's. Airflow only reads ours."""
    readable = metadata.ask(
        "select table_name from information_schema.table_privileges"
        " where grantee = 'sla' and table_schema = 'public'"
    )
    assert {row["table_name"] for row in readable} == set(READABLE)
    for statement in (
        "select * from connection",
        "select * from variable",
        "select * from xcom",
        "update dag_run set state = 'success'",
        "create table public.mine ()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            metadata.ask(statement)
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("select * from sla.record, sla.mail, sla.mail_record")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from sla.mail")

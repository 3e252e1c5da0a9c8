"""Two monitors: one leads, whatever happens to it or to its session; nobody is told twice."""

from __future__ import annotations

import threading

import psycopg
import pytest

from celery_stack.sla import monitor, run_sla, task_sla
from celery_stack.sla.monitor import Floor, look, run
from tests.sla.looks import DUE, config_of, running_monitors
from tests.sla.runs import Metadata, minutes
from tests.waiting import wait_for


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

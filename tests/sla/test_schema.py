"""The tables of the SLAs, on a database of an earlier version."""

from __future__ import annotations

import psycopg
import pytest

from celery_stack.sla import schema
from celery_stack.sla.metadata import WATCHED
from celery_stack.sla.outbox import UNDELIVERED
from celery_stack.sla.schema import READABLE
from tests.sla.runs import Metadata

LATER = (("record", "silent"), ("record", "called_at"), ("mail", "unanswered"))
"""Columns that the first version did not have."""
MANY = """
insert into sla.record (dag_id, run_id, name, due_from, promised, verdict, state, finished, judged_at)
select 'nightly', 'run ' || n, 'run', at, at, 'met', 'success', at, at
from generate_series(1, 20000) n, lateral (select now() - n * interval '5 minutes' as at) moment;
insert into sla.mail (key, kind, dag_id, run_id, message_id, recipients, subject, body_text, body_html, state,
  created_at)
select n, 'sla', 'nightly', n, n, '{}', '', '', '', 'sent', now() - n * interval '5 minutes'
from generate_series(1, 20000) n;
analyze sla.record, sla.mail;
"""


def test_tables_of_an_earlier_version_get_what_they_lack(metadata: Metadata):
    """Each start makes them again; what they hold stays."""
    columns = (
        "select table_name, column_name from information_schema.columns where table_schema = 'sla'"
    )
    with psycopg.connect(metadata.sla_url) as connection:
        connection.execute(
            "insert into sla.record (dag_id, run_id, name, due_from, promised, verdict, state)"
            " values ('nightly', 'run', 'run', now(), now(), 'pending', 'queued')"
        )
        for table, column in LATER:
            connection.execute(f"alter table sla.{table} drop column {column}")
        for _ in range(2):
            schema.create(connection)
        assert set(LATER) <= set(connection.execute(columns).fetchall())
    assert len(metadata.records()) == 1


def test_start_waits_for_no_mail_under_way(metadata: Metadata):
    """The mail server may take ten minutes to accept it; its row is locked that long."""
    with psycopg.connect(metadata.sla_url) as sender, psycopg.connect(metadata.sla_url) as start:
        sender.execute("select * from sla.mail, sla.record for update")
        start.execute("set lock_timeout = '2s'")
        schema.create(start)


def test_looks_read_what_is_open_and_not_what_was(metadata: Metadata):
    """They come every few seconds, and the tables keep the past."""
    with psycopg.connect(metadata.sla_url) as connection:
        connection.execute(MANY)
        queries = [
            connection.execute(f"explain {query}", {"worst_first": []}).fetchall()
            for query in (WATCHED, UNDELIVERED)
        ]
    plans = "\n".join(line for rows in queries for (line,) in rows)
    assert "Seq Scan on record" not in plans, plans
    assert "Seq Scan on mail" not in plans, plans


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

"""What is old is deleted, unless it would be told of again."""

from __future__ import annotations

from typing import Any

import psycopg

from celery_stack.sla import retention, run_sla
from celery_stack.sla.mail import Rendered
from celery_stack.sla.monitor import Floor, look
from celery_stack.sla.outbox import enqueue
from tests.sla.looks import DUE, TO, config_of, running_monitors
from tests.sla.runs import DAG, Metadata, minutes
from tests.waiting import wait_for

MAIL: dict[str, Any] = {
    "kind": "sla",
    "dag_id": DAG,
    "run_id": "run",
    "recipients": TO,
    "rendered": Rendered("subject", "text", "<p>html</p>"),
}


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

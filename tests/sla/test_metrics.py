"""What Prometheus learns of SLAs and their mails."""

from __future__ import annotations

from typing import Any

import psycopg

from celery_stack.sla import run_sla, task_sla
from celery_stack.sla.mail import Rendered
from celery_stack.sla.monitor import Floor, look
from celery_stack.sla.outbox import Undelivered, enqueue
from tests.exporter import Exporter
from tests.sla.looks import DUE, TO, config_of
from tests.sla.runs import DAG, Metadata, minutes

MAIL: dict[str, Any] = {
    "kind": "sla",
    "dag_id": DAG,
    "run_id": "run",
    "recipients": TO,
    "rendered": Rendered("subject", "text", "<p>html</p>"),
}


def told(exporter: Exporter, name: str) -> list[tuple[str, str]]:
    """Give the last tag and the value of what came under a name."""
    lines = [line for line in exporter.look() if line.startswith(f"airflow.{name},")]
    parts = (line.rpartition("|")[0].rpartition("=")[2].partition(":") for line in lines)
    return [(tag, value) for tag, _, value in parts]


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

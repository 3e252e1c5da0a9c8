"""Runs that people meddle with: given up, marked, cleared, with promises that make no sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from celery_stack.sla import run_sla, task_sla
from celery_stack.sla.metrics import Metrics
from celery_stack.sla.monitor import Config, Floor, look
from tests.sla.runs import Metadata, minutes

DUE = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


@pytest.fixture
def looks(metadata: Metadata) -> Iterator[Callable[[datetime], None]]:
    """Give what makes one monitor look, at a moment."""
    floor = Floor()
    config = Config(
        database=metadata.sla_url,
        broker="redis://127.0.0.1:1/0",
        smtp=None,
        base_url="http://airflow.example.org",
        default_to=["ml@example.org"],
        failure_emails=False,
        check_s=1,
        metrics=Metrics(None),
    )
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        yield lambda now: look(connection, config, floor, now=now)


def verdicts(metadata: Metadata) -> dict[str, str]:
    return {record["name"]: record["verdict"] for record in metadata.records()}


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

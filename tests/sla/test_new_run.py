"""What Airflow asks of a promise when it creates a run, in its own session."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from celery_stack.sla.declare import Promise
from tests.sla.runs import DAG, Metadata, minutes

DUE = datetime(2026, 11, 25, 6, tzinfo=UTC)
CREATED = DUE + timedelta(days=1)


@pytest.fixture
def session(metadata: Metadata) -> Iterator[Session]:
    with Session(create_engine(metadata.airflow_url, poolclass=NullPool)) as session:
        yield session


def deadline(session: Session, promise: Promise, run_id: str = "run") -> datetime | None:
    """Give the moment that Airflow's deadline is at: it adds the interval of the alert."""
    start = promise._evaluate_with(session=session, dag_id=DAG, run_id=run_id)
    return start and start + timedelta(seconds=promise.seconds)


def set_variable(metadata: Metadata, value: str) -> None:
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("delete from variable")
        connection.execute(
            "insert into variable (key, val, is_encrypted) values ('promised', %s, false)", (value,)
        )


@pytest.mark.parametrize(
    ("run_type", "start"),
    [
        ("scheduled", DUE),
        ("asset_triggered", DUE),
        ("manual", CREATED),
        ("backfill", CREATED),
    ],
)
def test_deadline_of_airflow_is_the_moment_promised(
    metadata: Metadata, session: Session, run_type: str, start: datetime
):
    """Counted as the monitor counts."""
    metadata.run(metadata.declare([]), due=DUE, created=CREATED, run_type=run_type)
    assert deadline(session, Promise(seconds=600)) == start + minutes(10)


def test_task_has_no_deadline_of_airflow(metadata: Metadata, session: Session):
    """It would be the run's, and the run be marked as late."""
    metadata.run(metadata.declare([]), due=DUE)
    assert deadline(session, Promise("load", "load", 600)) is None


def test_variable_says_other_seconds(metadata: Metadata, session: Session):
    """Noted with the run, in the transaction that creates it, once; without the Variable nothing is."""
    metadata.run(metadata.declare([]), due=DUE)
    promises = [Promise(seconds=600, variable="promised")]
    promises.append(Promise("load", "load", 600, variable="promised"))
    assert deadline(session, promises[0]) == DUE + minutes(10)
    set_variable(metadata, "90.5")
    assert deadline(session, promises[0]) == DUE + timedelta(seconds=90.5)
    for promise in promises:
        deadline(session, promise)
    session.commit()
    noted = metadata.ask("select run_id, task_id, seconds from sla.interval order by task_id")
    assert [tuple(row.values()) for row in noted] == [("run", "", 90.5), ("run", "load", 90.5)]


@pytest.mark.parametrize("value", ["soon", "0", "-5", "inf", "nan", "1e12"])
def test_variable_that_says_no_time_is_left_out(metadata: Metadata, session: Session, value: str):
    """A run is created whatever people type."""
    metadata.run(metadata.declare([]), due=DUE)
    set_variable(metadata, value)
    promise = Promise(seconds=600, variable="promised")
    assert deadline(session, promise) == DUE + minutes(10)
    session.commit()
    assert metadata.ask("select * from sla.interval") == []


def test_run_is_created_though_its_promise_makes_no_sense(metadata: Metadata, session: Session):
    """An earlier version may have stored it; in Airflow it would end the scheduler."""
    metadata.run(metadata.declare([]), due=DUE)
    assert deadline(session, Promise(seconds=1e12)) is None
    set_variable(metadata, "90")
    assert deadline(session, Promise(seconds=1e12, variable="promised")) is None
    assert session.scalar(text("select count(*) from dag_run")) == 1


def test_run_is_created_though_nothing_can_be_noted(metadata: Metadata, session: Session):
    """The transaction of the scheduler goes on; what Airflow shows is what is judged."""
    metadata.run(metadata.declare([]), due=DUE)
    set_variable(metadata, "90")
    with psycopg.connect(metadata.sla_url) as connection:
        connection.execute("revoke insert on sla.interval from airflow")
    try:
        promise = Promise(seconds=600, variable="promised")
        assert deadline(session, promise) == DUE + minutes(10)
        assert session.scalar(text("select count(*) from dag_run")) == 1
        session.commit()
    finally:
        with psycopg.connect(metadata.sla_url) as connection:
            connection.execute("grant insert on sla.interval to airflow")

"""Mails of failed runs: who is told of which, once, judged from Airflow's own tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.exceptions import AirflowClusterPolicyViolation
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization
from psycopg import Connection

from celery_stack.policies import dag_policy
from celery_stack.sla import failure_mail
from celery_stack.sla.failures import FIRST_LOOK_BACK, Since, look
from tests.sla.runs import DAG as DAG_ID
from tests.sla.runs import Metadata, minutes

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Stack:
    """What the monitor tells a look."""

    default_to: Sequence[str] = ("ops@example.org",)
    base_url: str = "http://localhost:8080"
    log_folder: Path | None = None


def failed_run(metadata: Metadata, run_id: str = "run", *, ended: datetime = NOW) -> str:
    """Put a run of which `load` failed, and give its DAG's version."""
    version = metadata.declare([])
    metadata.run(version, run_id, due=ended - minutes(9), state="failed", ended=ended)
    metadata.task("load", "failed", run_id=run_id, ended=ended - minutes(1))
    metadata.task("store", "upstream_failed", run_id=run_id, ended=ended)
    return version


def tell(connection: Connection[Any], stack: Stack | None = None, *, now: datetime = NOW) -> int:
    return look(connection, stack or Stack(), Since(), now=now)


def store_dag(metadata: Metadata, dag: DAG) -> None:
    """Store the DAG as Airflow's DAG processor does, as the newest version."""
    metadata.declare([])
    newest = "select id from serialized_dag order by created_at desc limit 1"
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute(
            f"update serialized_dag set data = %s where id = ({newest})",  # noqa: S608  # constant
            (json.dumps(DagSerialization.to_dict(dag)),),
        )


def parsed(**arguments: Any) -> DAG:
    """Give a DAG as it comes out of the policies."""

    @task(execution_timeout=timedelta(minutes=1))
    def load() -> None:
        """Do nothing."""

    given = {"default_args": {"owner": "ml"}, "doc_md": "what it does", "schedule": None}
    with DAG(DAG_ID, **{**given, **arguments}) as dag:
        load()
    dag_policy(dag)
    return dag


def test_failed_run_is_told_of_once(metadata: Metadata, monitor: Connection[Any]):
    """However often one looks, with what failed and what did not run."""
    failed_run(metadata)
    assert [tell(monitor) for _ in range(3)] == [1, 0, 0]
    [mail] = metadata.mails()
    assert (mail["kind"], mail["state"]) == ("failure", "pending")
    assert mail["recipients"] == ["ops@example.org"]
    assert mail["subject"] == f"[Airflow] Run failed: {DAG_ID} / load"
    assert "1 task behind did not run." in mail["body_text"]
    assert "1 of 3" in mail["body_text"]
    assert "2026-11-25 02:59 UTC" in mail["body_text"]


@pytest.mark.parametrize("state", ["running", "queued", "success"])
def test_run_that_goes_on_or_succeeds_is_not_told_of(
    metadata: Metadata, monitor: Connection[Any], state: str
):
    """Whatever failed in it: a retry, a task that another one makes up for."""
    version = metadata.declare([])
    metadata.run(version, due=NOW, state=state, ended=NOW if state == "success" else None)
    metadata.task("load", "up_for_retry" if state == "running" else "failed", ended=NOW)
    assert tell(monitor) == 0


def test_run_that_fails_again_is_told_of_again(metadata: Metadata, monitor: Connection[Any]):
    """Its task had a new try: another cause."""
    failed_run(metadata)
    assert tell(monitor) == 1
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("update task_instance set try_number = 2 where task_id = 'load'")
    assert tell(monitor) == 1
    assert len({mail["key"] for mail in metadata.mails()}) == 2


def test_run_that_fails_again_without_a_failed_task_is_told_of_again(
    metadata: Metadata, monitor: Connection[Any]
):
    """It was cleared, and timed out or was marked once more."""
    metadata.run(metadata.declare([]), due=NOW, state="failed", ended=NOW)
    assert [tell(monitor), tell(monitor)] == [1, 0]
    with psycopg.connect(metadata.airflow_url) as connection:
        connection.execute("update dag_run set clear_number = 1")
    assert [tell(monitor), tell(monitor)] == [1, 0]


def test_mapped_instances_are_named(metadata: Metadata, monitor: Connection[Any]):
    """With their index, in the order in which they failed."""
    metadata.run(metadata.declare([]), due=NOW, state="failed", ended=NOW)
    metadata.task("train", "failed", map_index=3, ended=NOW - minutes(2))
    metadata.task("train", "failed", map_index=0, ended=NOW - minutes(1))
    metadata.task("train", "success", map_index=1, ended=NOW)
    tell(monitor)
    assert metadata.mails()[0]["subject"].endswith("/ train[3], train[0]")


def test_run_that_was_ended_from_outside_is_told_of(metadata: Metadata, monitor: Connection[Any]):
    """Its timeout skips the tasks: none of them failed."""
    metadata.run(metadata.declare([]), due=NOW, state="failed", ended=NOW)
    metadata.task("load", "skipped", ended=NOW)
    assert tell(monitor) == 1
    assert "dagrun_timeout" in metadata.mails()[0]["body_text"]


def test_what_failed_long_before_the_first_look_is_left_alone(
    metadata: Metadata, monitor: Connection[Any]
):
    """A monitor that was away for less tells of it."""
    failed_run(metadata, "old", ended=NOW - FIRST_LOOK_BACK - minutes(1))
    failed_run(metadata, "missed", ended=NOW - FIRST_LOOK_BACK + minutes(1))
    assert tell(monitor) == 1
    assert metadata.mails()[0]["run_id"] == "missed"


def test_run_whose_end_is_written_late_is_found(metadata: Metadata, monitor: Connection[Any]):
    """Looks overlap."""
    since = Since()
    assert look(monitor, Stack(), since, now=NOW) == 0
    failed_run(metadata, ended=NOW - minutes(1))
    assert look(monitor, Stack(), since, now=NOW + minutes(1)) == 1


def test_nobody_to_tell_makes_no_mail(metadata: Metadata, monitor: Connection[Any]):
    """Nobody has asked; once somebody is named, what failed in the meantime is told."""
    failed_run(metadata)
    assert tell(monitor, Stack(default_to=())) == 0
    assert metadata.mails() == []


def test_log_is_in_the_mail(metadata: Metadata, monitor: Connection[Any], tmp_path: Path):
    """The end of the last try's."""
    failed_run(metadata)
    log = tmp_path / f"dag_id={DAG_ID}/run_id=run/task_id=load/attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"timestamp": "2026-11-25T02:59:01Z", "level": "error", "event": "no rows"}\n')
    tell(monitor, replace(Stack(), log_folder=tmp_path))
    assert "02:59:01 ERROR no rows" in metadata.mails()[0]["body_text"]


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (None, ["ops@example.org"]),
        (print, ["ops@example.org"]),
        (failure_mail(to=["ml@example.org"]), ["ml@example.org"]),
        ([print, failure_mail(to=["ml@example.org", "me@example.org"])], None),
    ],
)
def test_dag_says_who_is_told(
    metadata: Metadata, monitor: Connection[Any], callback: Any, expected: list[str] | None
):
    """Through the policies and Airflow's own serialization, beside callbacks of one's own."""
    failed_run(metadata)
    store_dag(metadata, parsed(on_failure_callback=callback))
    assert tell(monitor) == 1
    assert metadata.mails()[0]["recipients"] == (expected or ["ml@example.org", "me@example.org"])


def test_dag_may_say_that_nobody_is_told(metadata: Metadata, monitor: Connection[Any]):
    """Though there is an SLA_EMAIL_TO."""
    failed_run(metadata)
    store_dag(metadata, parsed(on_failure_callback=failure_mail(to=[])))
    assert tell(monitor) == 0


def test_latest_version_of_the_dag_says_who_is_told(metadata: Metadata, monitor: Connection[Any]):
    """Who took a DAG over gets the mails of runs that began before."""
    store_dag(metadata, parsed(on_failure_callback=failure_mail(to=["old@example.org"])))
    failed_run(metadata)
    store_dag(metadata, parsed(on_failure_callback=failure_mail(to=["new@example.org"])))
    tell(monitor)
    assert metadata.mails()[0]["recipients"] == ["new@example.org"]


def test_wrong_address_is_an_error_of_the_dag_file():
    """When it is parsed, not when somebody waits for a mail."""
    with pytest.raises(ValueError, match="to must hold addresses"):
        failure_mail(to=["ml"])


def test_failure_mail_of_a_task_is_refused():
    """It would be read as the task's own, and mean nothing."""
    callback = failure_mail(to=["ml@example.org"])
    with pytest.raises(AirflowClusterPolicyViolation, match="load has a failure_mail.*to the DAG"):
        parsed(default_args={"owner": "ml", "on_failure_callback": callback})


def test_callback_itself_does_nothing():
    """Airflow runs it; the monitor tells."""
    failure_mail(to=["ml@example.org"])({"run_id": "run"})

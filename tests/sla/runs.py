"""Runs, task instances and promises as Airflow writes them into its metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from airflow.sdk import DeadlineAlert
from airflow.serialization.encoders import encode_deadline_alert
from psycopg.rows import dict_row

DAG = "nightly"


@dataclass(frozen=True)
class Metadata:
    """The addresses of the metadata, as Airflow and as the monitor enter it."""

    airflow_url: str = field(repr=False)
    sla_url: str = field(repr=False)

    def declare(self, alerts: Sequence[DeadlineAlert], dag_id: str = DAG) -> str:
        """Store a version of a DAG with these promises; give the version's id."""
        version, serialized = str(uuid4()), str(uuid4())
        self._write(
            "insert into dag_bundle (name, active) values ('dags-folder', true) on conflict do nothing"
        )
        self._write(
            "insert into dag (dag_id, is_paused, is_stale, max_active_tasks, max_active_runs,"
            " max_consecutive_failed_dag_runs, has_task_concurrency_limits, has_import_errors,"
            " bundle_name, fail_fast, timetable_type, timetable_partitioned, timetable_periodic, partition_mapper_info)"
            " values (%s, false, false, 16, 16, 0, false, false, 'dags-folder', false, '', false, false, '{}')"
            " on conflict do nothing",
            dag_id,
        )
        self._write(
            "insert into dag_version (id, version_number, dag_id, bundle_name, created_at,"
            " last_updated) select %s, count(*) + 1, %s, 'dags-folder', now(), now() from dag_version",
            version,
            dag_id,
        )
        self._write(
            "insert into serialized_dag (id, dag_id, data, dag_hash, dag_version_id, created_at,"
            " last_updated) values (%s, %s, '{}', %s, %s, now(), now())",
            serialized,
            dag_id,
            serialized[:32],
            version,
        )
        for alert in alerts:
            encoded = encode_deadline_alert(alert)
            self._write(
                "insert into deadline_alert (id, created_at, serialized_dag_id, name, reference,"
                " interval, callback_def) values (%s, now(), %s, %s, %s, %s, %s)",
                str(uuid4()),
                serialized,
                encoded["name"],
                *(json.dumps(encoded[key]) for key in ("reference", "interval", "callback")),
            )
        return version

    def run(
        self,
        version: str,
        run_id: str = "run",
        *,
        due: datetime,
        dag_id: str = DAG,
        run_type: str = "scheduled",
        created: datetime | None = None,
        state: str = "running",
        ended: datetime | None = None,
    ) -> None:
        """Create a run; unset, it was created when it was due."""
        self._write(
            "insert into dag_run (dag_id, run_id, run_type, run_after, created_at, queued_at,"
            " start_date, end_date, state, created_dag_version_id, clear_number, span_status,"
            " updated_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 'not_started', now())",
            dag_id,
            run_id,
            run_type,
            due,
            created or due,
            created or due,
            created or due,
            ended,
            state,
            version,
        )

    def task(
        self,
        task_id: str,
        state: str | None,
        *,
        run_id: str = "run",
        dag_id: str = DAG,
        map_index: int = -1,
        started: datetime | None = None,
        ended: datetime | None = None,
        heard_of: datetime | None = None,
    ) -> None:
        """Give the task instance this state, whether it is there or not."""
        self._write(
            "insert into task_instance (id, task_id, dag_id, run_id, map_index, state, start_date,"
            " end_date, last_heartbeat_at, try_number, max_tries, pool, pool_slots, queue, priority_weight,"
            " custom_operator_name, dag_version_id, updated_at, context_carrier, span_status)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, 1, 2, 'default_pool', 1, 'default', 1, '',"
            " (select created_dag_version_id from dag_run where dag_id = %s and run_id = %s), now(), '{}', 'not_started')"
            " on conflict (dag_id, task_id, run_id, map_index) do update set state = excluded.state,"
            " start_date = excluded.start_date, end_date = excluded.end_date,"
            " last_heartbeat_at = excluded.last_heartbeat_at",
            str(uuid4()),
            task_id,
            dag_id,
            run_id,
            map_index,
            state,
            started,
            ended,
            heard_of,
            dag_id,
            run_id,
        )

    def clear(self, task_id: str, *, run_id: str = "run", dag_id: str = DAG) -> None:
        """Clear the task instance, as Airflow does: what it was goes to the history."""
        self._write(
            "insert into task_instance_history (task_instance_id, task_id, dag_id, run_id, map_index,"
            " state, start_date, end_date, try_number, max_tries, pool, pool_slots, queue, priority_weight,"
            " context_carrier, span_status)"
            " select id, task_id, dag_id, run_id, map_index, state, start_date, end_date, try_number,"
            " max_tries, pool, pool_slots, queue, priority_weight, context_carrier, span_status from task_instance"
            " where dag_id = %s and run_id = %s and task_id = %s",
            dag_id,
            run_id,
            task_id,
        )
        self.task(task_id, None, run_id=run_id, dag_id=dag_id)

    def end(self, ended: datetime, state: str = "success", run_id: str = "run") -> None:
        self._write(
            "update dag_run set state = %s, end_date = %s where run_id = %s", state, ended, run_id
        )

    def records(self) -> list[Any]:
        return self.ask("select * from sla.record order by id")

    def mails(self) -> list[Any]:
        return self.ask("select * from sla.mail order by id")

    def ask(self, query: str) -> list[Any]:
        """Ask as the monitor's role; give rows by column."""
        with psycopg.connect(self.sla_url, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    def _write(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.airflow_url) as connection:
            connection.execute(statement, values)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)

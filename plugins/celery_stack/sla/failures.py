"""Mails of failed runs: one for each run and cause, none for a retry.

They are judged from the metadata, as SLAs are: a run counts that ended in `failed`, its cause are the task
instances that failed in it and their tries. So a run that was cleared and fails again is told of
again, and a mail that was lost with a process is written by the next look. Who is told: `callbacks`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from celery_stack.sla.log_tail import read_log_tails
from celery_stack.sla.mail import FailedTask, Rendered, render_failure_mail
from celery_stack.sla.outbox import enqueue

if TYPE_CHECKING:
    from psycopg import Connection

log = logging.getLogger(__name__)

FIRST_LOOK_BACK = timedelta(days=1)
"""What failed while no monitor ran is told of, if it is not older."""
OVERLAP = timedelta(minutes=10)
"""The end of a run reaches the metadata some time after the moment that it names."""

FAILED_RUNS = """
select r.dag_id, r.run_id, r.clear_number, declared.addresses, tasks.not_run, tasks.failed
from dag_run r
cross join lateral (
  select count(*) filter (where t.state = 'upstream_failed') as not_run,
    coalesce(
      json_agg(json_build_array(t.task_id, t.map_index, t.try_number, t.max_tries, t.end_date)
               order by t.end_date, t.task_id, t.map_index) filter (where t.state = 'failed'),
      '[]') as failed
  from task_instance t where t.dag_id = r.dag_id and t.run_id = r.run_id
) tasks
left join lateral (
  select s.data #> '{dag,default_args,__var,failure_mail_to}' as addresses
  from serialized_dag s where s.dag_id = r.dag_id order by s.created_at desc limit 1
) declared on true
where r.state = 'failed' and r.end_date >= %(since)s
order by r.end_date
"""
KNOWN = "select key from sla.mail where key = any(%s)"


@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Args:
        cleared: how often it was cleared.
        declared: who its DAG wants to be told; None where it does not say.
    """

    dag_id: str
    run_id: str
    cleared: int
    failed: tuple[FailedTask, ...]
    not_run: int
    declared: tuple[str, ...] | None

    @property
    def key(self) -> str:
        """Name the run and the cause."""
        # A run may fail without a failed task: it timed out, or was marked.
        tries = [[task.task, task.try_number] for task in self.failed]
        cause = json.dumps([self.cleared, tries])
        digest = hashlib.sha256(cause.encode()).hexdigest()[:16]
        return f"failure:{self.dag_id}:{self.run_id}:{digest}"


class Surroundings(Protocol):
    """What a look needs to know of the stack."""

    @property
    def default_to(self) -> Sequence[str]: ...
    @property
    def base_url(self) -> str: ...
    @property
    def log_folder(self) -> Path | None: ...


@dataclass
class Since:
    """From when on the next look looks for failed runs."""

    looked_at: datetime | None = None

    def start(self, now: datetime) -> datetime:
        return now - FIRST_LOOK_BACK if self.looked_at is None else self.looked_at - OVERLAP


def look(connection: Connection[Any], stack: Surroundings, since: Since, *, now: datetime) -> int:
    """Write a mail for each run that has failed since the last look; give how many are new."""
    new = 0
    for run in _unknown(connection, find_failures(connection, since.start(now))):
        to = stack.default_to if run.declared is None else run.declared
        if to:  # unlike with an SLA, nobody has asked for it
            with connection.transaction():
                new += _enqueue(connection, run, to, _rendered(run, stack, now))
    since.looked_at = now
    return new


def find_failures(connection: Connection[Any], since: datetime) -> list[FailedRun]:
    """Give the runs that have failed since then, the oldest first, each with its failed tasks."""
    rows = connection.execute(FAILED_RUNS, {"since": since}).fetchall()
    return [
        FailedRun(dag_id, run_id, cleared, tuple(map(_task, failed)), not_run, _declared(addresses))
        for dag_id, run_id, cleared, addresses, not_run, failed in rows
    ]


def _unknown(connection: Connection[Any], runs: Sequence[FailedRun]) -> list[FailedRun]:
    """Give those without a mail: logs are read and mails are rendered for them alone."""
    known = {key for (key,) in connection.execute(KNOWN, ([run.key for run in runs],)).fetchall()}
    return [run for run in runs if run.key not in known]


def _rendered(run: FailedRun, stack: Surroundings, now: datetime) -> Rendered:
    tasks = [task.task for task in run.failed]
    return render_failure_mail(
        dag_id=run.dag_id,
        run_id=run.run_id,
        failed=run.failed,
        not_run=run.not_run,
        now=now,
        base_url=stack.base_url,
        log_tails=read_log_tails(
            stack.log_folder, dag_id=run.dag_id, run_id=run.run_id, tasks=tasks
        ),
    )


def _enqueue(
    connection: Connection[Any], run: FailedRun, to: Sequence[str], rendered: Rendered
) -> bool:
    log.info("Failed: %s %s", run.dag_id, run.run_id)
    return enqueue(
        connection,
        key=run.key,
        kind="failure",
        dag_id=run.dag_id,
        run_id=run.run_id,
        recipients=to,
        rendered=rendered,
    )


def _task(row: Sequence[Any]) -> FailedTask:
    task_id, map_index, try_number, max_tries, ended = row
    name = task_id if map_index < 0 else f"{task_id}[{map_index}]"
    at = None if ended is None else datetime.fromisoformat(ended)
    return FailedTask(name, try_number, max(max_tries + 1, try_number), at)


def _declared(addresses: Any) -> tuple[str, ...] | None:
    return tuple(map(str, addresses)) if isinstance(addresses, list) else None

"""What the monitor reads from Airflow's metadata and writes into its records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow, class_row, dict_row

from celery_stack.sla.judge import LONGEST_S, WORST_FIRST
from celery_stack.sla.schema import Blocking

logger = logging.getLogger(__name__)

CATCH_UP = timedelta(days=1)
"""A run created longer than this after it was promised catches up on the past: nobody is told."""

DUE_FROM = """
  case r.run_type
    when 'backfill' then coalesce(r.created_at, r.run_after)
    when 'manual' then greatest(r.created_at, r.run_after)
    else r.run_after
  end"""

# Promises without a record, of runs from the id `floor` on.
NEW = f"""
select r.dag_id, r.run_id, r.created_at, coalesce(r.state, 'queued') as state, {DUE_FROM} as due_from,
  a.reference::jsonb as promise, i.seconds, of_run.reference::jsonb -> 'to' as to_of_run
from dag_run r
join serialized_dag s on s.dag_version_id = r.created_dag_version_id
join deadline_alert a on a.serialized_dag_id = s.id and a.reference ->> 'reference_type' = 'Promise'
left join lateral (
  select o.reference from deadline_alert o
  where o.serialized_dag_id = s.id and o.reference ->> 'reference_type' = 'Promise'
    and o.reference ->> 'task_id' = '' and json_array_length(o.reference -> 'to') > 0
  order by o.reference ->> 'name' limit 1
) of_run on true
left join sla.interval i on i.dag_id = r.dag_id and i.run_id = r.run_id
  and i.task_id = a.reference ->> 'task_id' and i.name = a.reference ->> 'name'
where r.id >= %(floor)s
  and coalesce(r.created_at, r.run_after) >= (select first_look - interval '1 day' from sla.beginning)
  and not exists (
    select from sla.record k where k.dag_id = r.dag_id and k.run_id = r.run_id
      and k.task_id = a.reference ->> 'task_id' and k.name = a.reference ->> 'name')
"""  # noqa: S608 - a constant

ADD = """
insert into sla.record
  (dag_id, run_id, task_id, name, due_from, promised, verdict, state, recipients, on_miss)
values (%(dag_id)s, %(run_id)s, %(task_id)s, %(name)s, %(due_from)s, %(promised)s, 'pending',
  %(state)s, %(recipients)s, %(on_miss)s)
on conflict do nothing
"""

# A record whose run was deleted promises nothing any more.
FORGET = """
delete from sla.record k where verdict = 'pending'
  and not exists (select from dag_run r where r.dag_id = k.dag_id and r.run_id = k.run_id)
"""

# Promises that are not judged yet, and missed ones that have not finished, each with what its task
# instances say; a promise for the run has those of all tasks. An instance is done when it ended in success for
# the first time, that somebody cleared it afterwards breaks no promise, or was skipped. Two things need care:
# - A run that is marked as failed, or takes longer than its dagrun_timeout, is given up: Airflow skips what has
#   not ended, at that moment or without one. Nobody has done that. So does a DAG with fail_fast, when a task fails.
# - What is marked, or given up, between two tries keeps the end of the failed one: when it was marked, is when
#   its row was last written. (After the last try there is no trace but the record of a monitor that looked.)
WATCHED = """
select k.id, k.dag_id, k.run_id, k.task_id, k.name, k.due_from, k.promised, k.recipients, k.on_miss,
  k.verdict, r.created_at, coalesce(r.state, 'queued') as run_state, r.end_date as run_ended,
  min(t.start_date) as started,
  max(t.end_date) as last_ended,
  count(t.task_id) as instances,
  count(done.at) as done,
  max(done.at) as last_done,
  coalesce(bool_or(before.at is not null), false) as cleared,
  min(coalesce(t.last_heartbeat_at, t.start_date)) filter (where t.state = 'running') as heard_of,
  (array_agg(coalesce(t.state, 'none')
    order by array_position(%(worst_first)s, coalesce(t.state, 'none')::text))
    filter (where t.task_id is not null))[1] as worst
from sla.record k join dag_run r on r.dag_id = k.dag_id and r.run_id = k.run_id
left join dag d on d.dag_id = k.dag_id
left join task_instance t
  on t.dag_id = k.dag_id and t.run_id = k.run_id and (k.task_id = '' or t.task_id = k.task_id)
  and coalesce(t.state, 'none') <> 'removed'
left join lateral (
  select min(h.end_date) filter (where h.state = 'success') as at,
    coalesce(bool_or(h.state = 'failed' and h.end_date = t.end_date), false) as failed_then
  from task_instance_history h
  where h.dag_id = t.dag_id and h.run_id = t.run_id and h.task_id = t.task_id
    and h.map_index = t.map_index
) before on true
left join lateral (
  select least(before.at, case
    when coalesce(t.state, 'none') not in ('success', 'skipped') then null  -- cleared, it keeps an end
    when t.state = 'skipped' and r.state = 'failed'
      and (before.failed_then or t.end_date >= r.end_date - interval '2 seconds') then null
    when t.state = 'skipped' and d.fail_fast and exists (
      select from task_instance f where f.dag_id = t.dag_id and f.run_id = t.run_id
        and f.state = 'failed' and f.end_date <= t.end_date + interval '2 seconds') then null
    when before.failed_then then greatest(t.end_date, t.updated_at)
    else t.end_date
  end) as at
) done on true
where k.verdict = 'pending'
  or (k.verdict = 'missed' and k.finished is null and k.judged_at > now() - interval '7 days')
group by k.id, r.id
order by k.promised
"""

# Whoever turns it from pending has judged it; a second monitor finds it judged.
JUDGE = """
update sla.record set verdict = %(verdict)s, finished = %(finished)s, state = %(state)s,
  reason = %(reason)s, blocking = %(blocking)s, silent = %(silent)s, judged_at = now()
where id = %(id)s and verdict = 'pending'
"""

# What was missed has finished after all. Was it in time, and only told us late, then it was no miss. But only
# what ran in silence can have been: a failed task that is marked as success keeps the end of its last try.
FINISHED = """
update sla.record set state = %(state)s,
  verdict = case when silent and %(finished)s <= promised then 'met' else verdict end,
  finished = case when not silent and %(finished)s <= promised then now() else %(finished)s end
where id = %(id)s and finished is null
returning finished - promised
"""

UNFINISHED = """
select task_id, map_index, coalesce(state, 'none') as state from task_instance
where dag_id = %s and run_id = %s and coalesce(state, 'none') not in ('success', 'skipped', 'removed')
order by start_date nulls last, task_id, map_index
"""


@dataclass(frozen=True)
class Watched:
    """A promise and what it is about, as it is now.

    Args:
        verdict: `pending`, or `missed` where it has not finished.
        instances: how many the task, or the whole run, has; of these so many are `done`.
        cleared: whether an instance was done before, and somebody cleared it.
        heard_of: the last heartbeat of the running instance that is silent for longest; None if none runs.
        worst: the state that speaks for all of them; None without any.
    """

    id: int
    dag_id: str
    run_id: str
    task_id: str
    name: str
    due_from: datetime
    promised: datetime
    recipients: Sequence[str]
    on_miss: str
    verdict: str
    created_at: datetime | None
    run_state: str
    run_ended: datetime | None
    started: datetime | None
    last_ended: datetime | None
    instances: int
    done: int
    last_done: datetime | None
    cleared: bool
    heard_of: datetime | None
    worst: str | None

    @property
    def state(self) -> str:
        """Give the state to show: of the run, or of the task's worst instance."""
        return (self.worst or "none") if self.task_id else self.run_state

    @property
    def finished(self) -> datetime | None:
        """Give when all of it was done for the first time; None if it is not.

        A run is done when its last task is: when the scheduler came to see it does not count. One that failed
        is not, unless all was done before somebody cleared it.
        """
        if not self.task_id and self.run_state == "failed" and not self.cleared:
            return None
        if self.instances and self.done == self.instances:
            return self.last_done
        # A run may succeed over a failed task; of a mapped task there may be nothing left.
        if self.run_state == "success" and (not self.task_id or not self.instances):
            return min(filter(None, (self.last_ended, self.run_ended)), default=None)
        return None

    @property
    def silent(self) -> bool:
        """Tell whether all that is not done runs, and has not been heard of since it was promised."""
        return (
            self.worst == "running" and self.heard_of is not None and self.heard_of < self.promised
        )

    @property
    def catches_up(self) -> bool:
        """Tell whether the run was created long after it was promised: nobody is told."""
        return _catches_up(self.created_at, self.promised)


def _catches_up(created_at: datetime | None, promised: datetime) -> bool:
    return created_at is not None and created_at - promised > CATCH_UP


def newest_run(connection: Connection[Any]) -> int:
    """Give the id of the newest run; 0 without one."""
    row = connection.execute("select coalesce(max(id), 0) from dag_run").fetchone()
    return int(row[0]) if row else 0


def add_records(connection: Connection[Any], *, floor: int, default_to: Sequence[str]) -> int:
    """Record the promises of runs that have none yet; give how many there were.

    Args:
        floor: runs with a smaller id are not looked at.
        default_to: who is told where the DAG names nobody.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(NEW, {"floor": floor}).fetchall()
        records = list(_records(found, default_to))
        cursor.executemany(ADD, records)
    return len(records)


def _records(found: Iterable[DictRow], default_to: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give the records of promises; one that makes no sense is logged, and keeps no other from being kept."""
    for row in found:
        try:
            yield _record(row, default_to)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            where = row["dag_id"], row["run_id"], row["promise"]
            logger.warning("%s %s: %s cannot be promised: %r", *where, error)


def _record(row: DictRow, default_to: Sequence[str]) -> dict[str, Any]:
    promise = row["promise"]
    seconds = row["seconds"] or promise["seconds"]
    promised = row["due_from"] + timedelta(seconds=min(seconds, LONGEST_S))
    catches_up = _catches_up(row["created_at"], promised)
    to = promise["to"] or row["to_of_run"] or list(default_to)
    return {
        "dag_id": row["dag_id"],
        "run_id": row["run_id"],
        "task_id": promise["task_id"],
        "name": promise["name"],
        "due_from": row["due_from"],
        "promised": promised,
        "state": row["state"] if not promise["task_id"] else "none",
        "recipients": to,
        "on_miss": "" if catches_up else promise["on_miss"],
    }


def watched(connection: Connection[Any]) -> list[Watched]:
    """Give what is not judged yet or not finished; what was promised for a run that is gone is forgotten."""
    connection.execute(FORGET)
    with connection.cursor(row_factory=class_row(Watched)) as cursor:
        return cursor.execute(WATCHED, {"worst_first": list(WORST_FIRST)}).fetchall()


def judged(
    connection: Connection[Any],
    one: Watched,
    *,
    verdict: str,
    finished: datetime | None,
    state: str,
    reason: str = "",
    blocking: Iterable[Blocking] = (),
) -> bool:
    """Write the verdict down; say whether it was this caller that judged."""
    values = {
        "id": one.id,
        "verdict": verdict,
        "finished": finished,
        "state": state,
        "reason": reason,
        "blocking": json.dumps([asdict(task) for task in blocking]),
        "silent": one.silent,
    }
    return connection.execute(JUDGE, values).rowcount == 1


def has_finished(connection: Connection[Any], one: Watched) -> timedelta | None:
    """Write down when a missed promise was fulfilled after all; give how late, None if it was not late."""
    values = {"id": one.id, "finished": one.finished, "state": one.state}
    row = connection.execute(FINISHED, values).fetchone()
    return row[0] if row and row[0] > timedelta(0) else None


@dataclass(frozen=True)
class Unfinished:
    """A task instance that is not done."""

    task_id: str
    map_index: int
    state: str

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


def unfinished(connection: Connection[Any], dag_id: str, run_id: str) -> list[Unfinished]:
    """Give the run's task instances that are not done, those that run first."""
    with connection.cursor(row_factory=class_row(Unfinished)) as cursor:
        return cursor.execute(UNFINISHED, (dag_id, run_id)).fetchall()

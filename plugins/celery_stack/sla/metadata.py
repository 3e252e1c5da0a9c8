"""What the monitor reads from Airflow's metadata and writes into its records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow, class_row, dict_row

from celery_stack.sla.judge import Instance
from celery_stack.sla.schema import Blocking

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

OPEN_RUNS = """
select k.id, k.dag_id, k.run_id, k.task_id, k.name, k.due_from, k.promised, k.recipients, k.on_miss,
  r.state as run_state, r.start_date, r.end_date, '[]'::jsonb as instances
from sla.record k join dag_run r on r.dag_id = k.dag_id and r.run_id = k.run_id
where k.verdict = 'pending' and k.task_id = ''
"""

OPEN_TASKS = """
select k.id, k.dag_id, k.run_id, k.task_id, k.name, k.due_from, k.promised, k.recipients, k.on_miss,
  r.state as run_state, r.start_date, r.end_date,
  coalesce(jsonb_agg(jsonb_build_object('map_index', t.map_index, 'state', coalesce(t.state, 'none'),
    'started', t.start_date, 'ended', t.end_date, 'done_before', before.ended))
    filter (where t.task_id is not null), '[]') as instances
from sla.record k join dag_run r on r.dag_id = k.dag_id and r.run_id = k.run_id
left join task_instance t
  on t.dag_id = k.dag_id and t.run_id = k.run_id and t.task_id = k.task_id
left join lateral (
  select min(h.end_date) as ended from task_instance_history h
  where h.dag_id = t.dag_id and h.run_id = t.run_id and h.task_id = t.task_id
    and h.map_index = t.map_index and h.state in ('success', 'skipped')
) before on true
where k.verdict = 'pending' and k.task_id <> ''
group by k.id, r.id
"""

# Whoever turns it from pending has judged it; a second monitor finds it judged.
JUDGE = """
update sla.record set verdict = %(verdict)s, finished = %(finished)s, state = %(state)s,
  reason = %(reason)s, blocking = %(blocking)s, judged_at = now()
where id = %(id)s and verdict = 'pending'
"""

# What was missed and has finished since: the page shows when.
FINISHED_SINCE = """
update sla.record k set finished = r.end_date, state = r.state
from dag_run r
where k.verdict = 'missed' and k.finished is null and k.task_id = '' and k.judged_at > now() - interval '30 days'
  and r.dag_id = k.dag_id and r.run_id = k.run_id and r.state = 'success'
"""
TASKS_FINISHED_SINCE = """
update sla.record k set finished = done.ended, state = 'success'
from (
  select k.id, max(t.end_date) as ended
  from sla.record k join task_instance t
    on t.dag_id = k.dag_id and t.run_id = k.run_id and t.task_id = k.task_id and t.state <> 'removed'
  where k.verdict = 'missed' and k.finished is null and k.task_id <> '' and k.judged_at > now() - interval '30 days'
  group by k.id having bool_and(t.state in ('success', 'skipped'))
) done
where k.id = done.id
"""

UNFINISHED = """
select task_id, map_index, coalesce(state, 'none') as state from task_instance
where dag_id = %s and run_id = %s and coalesce(state, 'none') not in ('success', 'skipped', 'removed')
order by start_date nulls last, task_id, map_index
"""


@dataclass(frozen=True)
class Open:
    """A promise that is not judged yet, with what it is about as it is now.

    Args:
        instances: of the task; of the whole run it has none.
    """

    id: int
    dag_id: str
    run_id: str
    task_id: str
    name: str
    due_from: datetime
    promised: datetime
    recipients: tuple[str, ...]
    on_miss: str
    run_state: str
    start_date: datetime | None
    end_date: datetime | None
    instances: tuple[Instance, ...]


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
        cursor.executemany(ADD, [_record(row, default_to) for row in found])
    return len(found)


def _record(row: DictRow, default_to: Sequence[str]) -> dict[str, Any]:
    promise = row["promise"]
    seconds = row["seconds"] or promise["seconds"]
    promised = row["due_from"] + timedelta(seconds=seconds)
    catches_up = row["created_at"] is not None and row["created_at"] - promised > CATCH_UP
    to = promise["to"] or row["to_of_run"] or list(default_to)
    return {
        "dag_id": row["dag_id"],
        "run_id": row["run_id"],
        "task_id": promise["task_id"],
        "name": promise["name"],
        "due_from": row["due_from"],
        "promised": promised,
        "state": row["state"] if not promise["task_id"] else "none",
        "recipients": [] if catches_up else to,
        "on_miss": "" if catches_up else promise["on_miss"],
    }


def open_promises(connection: Connection[Any]) -> list[Open]:
    """Give what is not judged yet; what was promised for a run that is gone is forgotten."""
    connection.execute(FORGET)
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = [*cursor.execute(OPEN_RUNS).fetchall(), *cursor.execute(OPEN_TASKS).fetchall()]
    return [_open(row) for row in rows]


def _open(row: DictRow) -> Open:
    instances = tuple(sorted(map(_instance, row["instances"]), key=lambda one: one.map_index))
    return Open(**row | {"instances": instances, "recipients": tuple(row["recipients"])})


def _instance(given: Mapping[str, Any]) -> Instance:
    moments = {
        name: given[name] and datetime.fromisoformat(given[name])
        for name in ("started", "ended", "done_before")
    }
    return Instance(given["map_index"], given["state"], **moments)


def judged(
    connection: Connection[Any],
    one: Open,
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
    }
    return connection.execute(JUDGE, values).rowcount == 1


def note_finished(connection: Connection[Any]) -> None:
    """Fill in when what was missed has finished after all."""
    connection.execute(FINISHED_SINCE)
    connection.execute(TASKS_FINISHED_SINCE)


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

"""Tables of the schema `sla` in the metadata database, and what passes between their writers and readers.

The schema belongs to the role `sla`; Airflow's own role may read it, for the page. Beside it the role
may read the tables of Airflow in `READABLE`, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection

# What the monitor reads of Airflow: no connection, variable, XCom, log or user is among it.
READABLE = (
    "dag",
    "dag_run",
    "dag_version",
    "deadline_alert",
    "serialized_dag",
    "task_instance",
    "task_instance_history",
    # Besides, for why a task waits (`celery_stack.why`).
    "backfill",
    "job",
    "slot_pool",
    "task_reschedule",
    "trigger",
)

TABLES = """
create table if not exists sla.record (
  id bigint generated always as identity primary key,
  dag_id text not null,
  run_id text not null,
  task_id text not null default '',
  name text not null,
  due_from timestamptz not null,
  promised timestamptz not null,
  finished timestamptz,
  verdict text not null check (verdict in ('pending', 'met', 'missed')),
  state text not null,
  reason text not null default '',
  blocking jsonb not null default '[]',
  recipients text[] not null default '{}',
  on_miss text not null default '',
  told_at timestamptz,
  judged_at timestamptz,
  created_at timestamptz not null default now(),
  unique (dag_id, run_id, task_id, name)
);
-- Columns that the table of an earlier version lacks, as below. `silent`: all that was missing ran, and its
-- workers were not heard of, when it was judged; it may have been done in time.
-- Only where they are missing: a change of the table would wait for a mail under way, and all others for it.
do $$ begin
  if (select count(*) from pg_attribute where not attisdropped
      and attrelid = 'sla.record'::regclass and attname in ('called_at', 'silent')) < 2 then
    alter table sla.record
      add column if not exists called_at timestamptz,
      add column if not exists silent boolean not null default false;
  end if;
end $$;
create index if not exists record_open on sla.record (promised) where verdict = 'pending';
create index if not exists record_by_time on sla.record (promised desc);
create index if not exists record_unfinished on sla.record (judged_at)
  where verdict = 'missed' and finished is null;
create index if not exists record_untold on sla.record (id)
  where verdict = 'missed' and on_miss <> '' and told_at is null;

create table if not exists sla.mail (
  id bigint generated always as identity primary key,
  key text not null unique,
  kind text not null check (kind in ('sla', 'failure')),
  dag_id text not null,
  run_id text not null,
  message_id text not null,
  recipients text[] not null,
  subject text not null,
  body_text text not null,
  body_html text not null,
  state text not null default 'pending' check (state in ('pending', 'sent', 'refused')),
  attempts int not null default 0,
  next_try_at timestamptz not null default now(),
  last_error text not null default '',
  delivered text[] not null default '{}',
  refused text[] not null default '{}',
  created_at timestamptz not null default now(),
  sent_at timestamptz
);
do $$ begin
  if not exists (select from pg_attribute where not attisdropped
      and attrelid = 'sla.mail'::regclass and attname = 'unanswered') then
    alter table sla.mail add column unanswered int not null default 0;
  end if;
end $$;
create index if not exists mail_due on sla.mail (next_try_at) where state = 'pending';
create index if not exists mail_by_time on sla.mail (created_at);

create table if not exists sla.mail_record (
  mail_id bigint references sla.mail on delete cascade,
  record_id bigint references sla.record on delete cascade,
  primary key (mail_id, record_id)
);
create index if not exists mail_record_by_record on sla.mail_record (record_id);

-- What a Variable said of a promise when the run was created: Airflow itself writes it, in that transaction.
create table if not exists sla.interval (
  dag_id text not null,
  run_id text not null,
  task_id text not null default '',
  name text not null,
  seconds double precision not null check (seconds > 0),
  primary key (dag_id, run_id, task_id, name)
);

-- Since when runs are judged: what is older than the first look was promised to nobody.
create table if not exists sla.beginning (
  first_look timestamptz not null default now(),
  one bool primary key default true check (one)
);
insert into sla.beginning default values on conflict do nothing;

grant usage on schema sla to airflow;
grant select on all tables in schema sla to airflow;
grant insert on sla.interval to airflow;
"""


@dataclass(frozen=True)
class Blocking:
    """A task that a late run or task waits for: its name as `train[2]`, its state, and why it waits."""

    task: str
    state: str
    why: str


@dataclass(frozen=True)
class Miss:
    """An SLA that was not kept.

    Args:
        record_id: its row in `sla.record`.
        name: what the author called it; else the task id, or `run`.
        task_id: empty for the whole run.
        due_from: when the clock started.
        promised: when it should have been finished.
        finished: when it ended in success; None if it has not.
        state: of the task (of a mapped one: its worst instance) or the run, when it was looked at.
        reason: one line, why it was late, as `make why` says it; empty if that is not known.
    """

    record_id: int
    name: str
    task_id: str
    due_from: datetime
    promised: datetime
    finished: datetime | None
    state: str
    reason: str = ""
    blocking: tuple[Blocking, ...] = ()


def create(connection: Connection[Any]) -> None:
    """Make the tables where they are missing, in the caller's transaction, as the role that owns `sla`.

    The schema itself is there already: see `compose/servers.py`.
    """
    connection.execute(TABLES)

"""Who writes, and the fence that keeps a late twin of an older try out.

A task that lost its heartbeat is started again while the first process may still run. Each write
therefore notes its try in `write_fences`, at once and for all to see, and looks again, under a lock
held to the end, right before its rows become the table's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_stack.warehouse.errors import PoolError, StaleTryError

if TYPE_CHECKING:
    from psycopg import Connection

POOL = "pg_io"
CONNECTION = "warehouse"

# A run that was deleted and made again under its name counts its tries from 1 again, but starts later.
CLAIM = """
INSERT INTO write_fences AS fence (dag_id, run_id, task_id, map_index, run_started_at, try_number)
VALUES (%(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s, %(run_started_at)s, %(try_number)s)
ON CONFLICT (dag_id, run_id, task_id, map_index) DO UPDATE
SET run_started_at = excluded.run_started_at, try_number = excluded.try_number, seen_at = now()
WHERE (fence.run_started_at, fence.try_number) <= (excluded.run_started_at, excluded.try_number)
RETURNING try_number
"""
HOLD = """
SELECT try_number, run_started_at FROM write_fences
WHERE (dag_id, run_id, task_id, map_index)
    = (%(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s)
FOR UPDATE
"""


@dataclass(frozen=True)
class Writer:
    """One try of one task instance; `map_index` is -1 where the task is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    run_started_at: datetime

    def __str__(self) -> str:
        mapped = "" if self.map_index < 0 else f" [{self.map_index}]"
        return f"DAG {self.dag_id}, run {self.run_id}, task {self.task_id}{mapped}"


def current_writer() -> Writer:
    """Give the task that runs in this process.

    Raises:
        PoolError: it is not in pool `pg_io`, or no task runs.
    """
    from airflow.sdk import get_current_context

    try:
        context = get_current_context()
    except RuntimeError:
        raise PoolError(
            f"The warehouse is reached from tasks of pool {POOL!r}, found no running task. "
            "Call read_rows and write_rows inside a task."
        ) from None
    return writer_of(context)


def writer_of(context: Mapping[str, Any]) -> Writer:
    """Give the writer that a task's context describes.

    Raises:
        PoolError: the task is not in pool `pg_io`.
    """
    instance, pool, run = context["ti"], context["task"].pool, context["dag_run"]
    map_index = -1 if instance.map_index is None else instance.map_index
    writer = Writer(
        instance.dag_id,
        instance.run_id,
        instance.task_id,
        map_index,
        instance.try_number,
        run.start_date or run.run_after,
    )
    if pool != POOL:
        raise PoolError(
            f"DAG {writer.dag_id}, task {writer.task_id}: the warehouse is reached in pool "
            f"{POOL!r}, found {pool!r}. Set pool={POOL!r} and its queue."
        )
    return writer


def claim(connection: Connection[Any], writer: Writer) -> None:
    """Note the writer's try in a transaction of its own, so that older ones see it at once.

    Raises:
        StaleTryError: a newer try has been here.
    """
    with connection.transaction():
        found = connection.execute(CLAIM, vars(writer)).fetchone()
    if found is None:
        raise _stale(writer)


def hold(connection: Connection[Any], writer: Writer) -> None:
    """Keep newer tries waiting until the transaction ends.

    Raises:
        StaleTryError: a newer try has begun since `claim`.
    """
    found = connection.execute(HOLD, vars(writer)).fetchone()
    if found != (writer.try_number, writer.run_started_at):
        raise _stale(writer)


def _stale(writer: Writer) -> StaleTryError:
    return StaleTryError(
        f"{writer}: expected try {writer.try_number} to be the newest, found that a newer one has "
        "begun. Nothing was written; leave the rows to the newer try."
    )

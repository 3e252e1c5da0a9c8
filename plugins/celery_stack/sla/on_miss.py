"""Authors' `on_miss`: each is called once for what a run missed at once, in a process of its own.

Whoever calls says so beforehand, so that two monitors do not both do it; a monitor that dies meanwhile
leaves the call to the next one. A callback that hangs or fails costs nobody a verdict or a mail: this has a thread
and a database session of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any
from urllib.parse import quote

from psycopg import Connection
from psycopg.rows import DictRow, dict_row

from celery_stack.sla import event
from celery_stack.sla.schema import Blocking, Miss

logger = logging.getLogger(__name__)

TIMEOUT_S = 60
"""A callback that takes longer is ended."""
KEPT_OF_STDERR = 2000
"""So many bytes of what a failed callback has written last are logged."""

# A call that was announced long ago, and neither made nor given back, was its caller's last.
CLAIM = """
with first as materialized (
  select dag_id, run_id, on_miss from sla.record
  where verdict = 'missed' and on_miss <> '' and told_at is null
    and (called_at is null or called_at < now() - interval '3 minutes')
  order by id limit 1
  for update skip locked
), own as materialized (
  select r.id from sla.record r join first using (dag_id, run_id, on_miss)
  where r.verdict = 'missed' and r.told_at is null
    and (r.called_at is null or r.called_at < now() - interval '3 minutes')
  for update of r skip locked
)
update sla.record set called_at = now() where id in (select id from own)
returning *
"""
TOLD = "update sla.record set told_at = now() where id = any(%s)"
GIVE_BACK = "update sla.record set called_at = null where id = any(%s)"


def call_back(
    connection: Connection[Any],
    env: Mapping[str, str],
    base_url: str,
    over: threading.Event | None = None,
) -> None:
    """Call for all that was missed and not told of, run by run, until `over` is set.

    Args:
        env: the environment of the callbacks.
        over: once it is set, the call under way is ended and left to the next monitor.
    """
    over = over or threading.Event()
    while not over.is_set():
        records = _claim(connection)
        if not records:
            return
        ids = [record["id"] for record in records]
        done = _call(records[0]["on_miss"], _event(records, base_url), env, over)
        connection.execute(TOLD if done else GIVE_BACK, (ids,))


def _claim(connection: Connection[Any]) -> list[DictRow]:
    with connection.cursor(row_factory=dict_row) as cursor:
        claimed = cursor.execute(CLAIM).fetchall()
    return sorted(claimed, key=lambda record: record["id"])


def _event(records: Sequence[DictRow], base_url: str) -> event.SlaEvent:
    dag_id, run_id = records[0]["dag_id"], records[0]["run_id"]
    misses = tuple(_miss(record) for record in records)
    return event.SlaEvent(dag_id, run_id, misses, run_url(base_url, dag_id, run_id))


def _miss(record: DictRow) -> Miss:
    given = {name: record[name] for name in ("name", "task_id", "due_from", "promised")}
    given |= {name: record[name] for name in ("finished", "state", "reason")}
    blocking = tuple(Blocking(**task) for task in record["blocking"])
    return Miss(record_id=record["id"], blocking=blocking, **given)


def run_url(base_url: str, dag_id: str, run_id: str) -> str:
    """Give the address of a run's page in the UI."""
    return f"{base_url.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def _call(
    path: str, happened: event.SlaEvent, env: Mapping[str, str], over: threading.Event
) -> bool:
    """Call the function; say whether that is over and done with, however it ended."""
    try:
        return _run(path, event.to_json(happened), env, over)
    except Exception:  # one that cannot be called must not hold up the others
        logger.exception("on_miss %s cannot be called", path)
        return True


def _run(path: str, text: str, env: Mapping[str, str], over: threading.Event) -> bool:
    with tempfile.TemporaryFile() as given:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", event.__name__, path],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,
        )
    assert process.stderr is not None, "it is a pipe"  # noqa: S101
    tail = _Tail(process.stderr)
    try:
        ended = _wait(process, over)
    finally:
        _end(process)
    if ended is None and over.is_set():
        return False
    if ended is None:
        logger.error("on_miss %s took more than %g s and was ended", path, TIMEOUT_S)
    elif ended:
        logger.error("on_miss %s failed:\n%s", path, tail.read())
    return True


def _wait(process: subprocess.Popen[bytes], over: threading.Event) -> int | None:
    """Give the exit code; None if it takes too long or `over` is set before."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end and not over.is_set():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
    return process.poll()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe to its end and keeps the last of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._kept = pipe, b""
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._kept = (self._kept + chunk)[-KEPT_OF_STDERR:]

    def read(self) -> str:
        """Give it as text; whoever has left the process's group and holds the pipe is not waited for."""
        self._reader.join(timeout=1)
        return self._kept.decode(errors="replace")

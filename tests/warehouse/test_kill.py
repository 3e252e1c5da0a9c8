"""A writer that is killed, and its retry: the same rows as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.warehouse.load import Target, store
from tests.waiting import wait_for
from tests.warehouse.embedded import writer

ROWS = 40_000
CHECKSUM = """
SELECT count(*), md5(string_agg(md5(stored::text), '' ORDER BY observation_id))
FROM (SELECT observation_id, model_version, score FROM predictions) AS stored
"""
COPYING = "SELECT tuples_processed FROM pg_stat_progress_copy WHERE relid <> 0"
UPSERTING = """
SELECT pid FROM pg_stat_activity
WHERE usename = 'warehouse' AND state = 'active' AND query LIKE 'INSERT INTO "predictions"%'
"""
WRITERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'doomed'"
CHILD = """
import sys, time, psycopg
from tests.warehouse.test_kill import rows, write
def slow():
    for i, row in enumerate(rows()):
        if i == {pause_at}: time.sleep(600)
        yield row
with psycopg.connect(sys.stdin.read(), application_name="doomed") as connection:
    write(connection, slow(), try_number=1)
"""


def rows() -> Iterator[tuple[int, str, float]]:
    return ((i, f"v\t{i % 7}\n", i / ROWS) for i in range(ROWS))


def write(connection: Connection[Any], given: Any, *, try_number: int) -> None:
    target = Target("predictions", ("observation_id", "model_version"))
    columns = ("observation_id", "model_version", "score")
    store(connection, writer(try_number), given, target, columns=columns, chunk_rows=1000)


def checksum(connection: Connection[Any]) -> Any:
    found = connection.execute(CHECKSUM).fetchone()
    connection.rollback()
    return found


@pytest.fixture
def undisturbed(warehouse: Connection[Any]) -> Any:
    """Give the checksum of a write that nothing disturbs, into a warehouse that had older rows."""

    def begin() -> None:
        warehouse.execute("TRUNCATE predictions, write_fences")
        old = (
            "INSERT INTO predictions SELECT i, E'v\\t3\\n', 1 FROM generate_series(3, 3000, 7) AS i"
        )
        warehouse.execute(old)
        warehouse.commit()

    begin()
    write(warehouse, rows(), try_number=1)
    expected = checksum(warehouse)
    assert expected[0] == ROWS
    begin()
    return expected


def start_child(url: str, *, pause_at: int) -> subprocess.Popen[bytes]:
    code = CHILD.format(pause_at=pause_at)
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(url.encode())
    child.stdin.close()
    return child


def kill(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_writer_killed_in_the_copy_leaves_no_trace(
    warehouse: Connection[Any], superuser: Connection[Any], warehouse_url: str, undisturbed: Any
):
    """Half of the rows are in the stage when it is killed."""
    before = checksum(warehouse)
    child = start_child(warehouse_url, pause_at=ROWS // 2)
    wait_for(
        lambda: superuser.execute(COPYING).fetchall(),
        lambda found: bool(found) and found[0][0] > 0,
        deadline_s=30,
    )
    kill(child)
    wait_for(lambda: superuser.execute(WRITERS).fetchone(), lambda n: n == (0,), deadline_s=20)
    assert checksum(warehouse) == before
    write(warehouse, rows(), try_number=2)
    assert checksum(warehouse) == undisturbed


def test_writer_killed_in_the_upsert_leaves_no_trace(
    warehouse: Connection[Any], superuser: Connection[Any], warehouse_url: str, undisturbed: Any
):
    """A row that another transaction holds keeps it in the upsert until it is killed."""
    before = checksum(warehouse)
    with psycopg.connect(warehouse_url) as blocker:
        blocker.execute("SELECT FROM predictions WHERE observation_id = 2999 FOR UPDATE")
        child = start_child(warehouse_url, pause_at=-1)
        wait_for(lambda: superuser.execute(UPSERTING).fetchall(), bool, deadline_s=30)
        kill(child)
        assert checksum(warehouse) == before
    wait_for(lambda: superuser.execute(WRITERS).fetchone(), lambda n: n == (0,), deadline_s=20)
    assert checksum(warehouse) == before
    write(warehouse, rows(), try_number=2)
    assert checksum(warehouse) == undisturbed


def test_retry_waits_for_the_killed_writer_s_upsert(
    warehouse: Connection[Any], superuser: Connection[Any], warehouse_url: str, undisturbed: Any
):
    """The server has not seen the end of try 1 when try 2 begins."""
    with psycopg.connect(warehouse_url) as blocker:
        blocker.execute("SELECT FROM predictions WHERE observation_id = 2999 FOR UPDATE")
        child = start_child(warehouse_url, pause_at=-1)
        wait_for(lambda: superuser.execute(UPSERTING).fetchall(), bool, deadline_s=30)
        kill(child)
        retry = start_child(warehouse_url, pause_at=-2)
        wait_for(lambda: superuser.execute(WRITERS).fetchone(), lambda n: n == (2,), deadline_s=30)
    assert retry.wait(timeout=30) == 0
    assert checksum(warehouse) == undisturbed

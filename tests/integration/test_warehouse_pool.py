"""The pool, the write path and the database's own limit, against each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from celery_stack.queues import load_declarations
from tests.integration.conftest import RunningStack

pytestmark = pytest.mark.slow
# 200 in `make test-slow`; fewer by default, because each task costs about 0.3 s of CPU.
WRITES = int(os.environ.get("POOL_TEST_WRITES", "16"))
LINES = 5
# The database itself notes, row by row, how many sessions of the writing role there are.
TABLE = """
CREATE FUNCTION sessions_now() RETURNS int LANGUAGE sql AS
  'SELECT count(*)::int FROM pg_stat_activity WHERE usename = current_user';
CREATE TABLE many_writes (
  writer int, line int, sessions int NOT NULL DEFAULT sessions_now(), PRIMARY KEY (writer, line)
)
"""
ROWS = "SELECT writer, line, sessions FROM many_writes ORDER BY writer, line"
TRIES = """
SELECT state, try_number, count(*) FROM task_instance
WHERE dag_id = 'warehouse_writes' AND task_id = 'write' GROUP BY state, try_number
"""


@pytest.fixture(scope="module")
def rows(stack: RunningStack) -> list[Any]:
    """Write once for this module; give what is in the table."""
    stack.warehouse(TABLE)
    stack.run("warehouse_writes", {"writes": WRITES}, deadline_s=600)
    return stack.warehouse(ROWS)


def test_every_write_succeeds_at_its_first_try(stack: RunningStack, rows: list[Any]):
    """None was refused and retried."""
    assert stack.metadata(TRIES) == [("success", 1, WRITES)]


def test_every_row_is_there_once(rows: list[Any]):
    """Nothing is lost, and the keys let nothing in twice."""
    expected = [(writer, line) for writer in range(WRITES) for line in range(LINES)]
    assert [(row.writer, row.line) for row in rows] == expected


def test_writers_in_the_database_never_outnumber_the_slots(
    stack: RunningStack, rows: list[Any], record_testsuite_property: Callable[[str, object], None]
):
    """Several write at once, at most PG_IO_SLOTS: as the database saw it while each row came in."""
    slots = load_declarations(stack.env).pools["pg_io"].slots
    most = max(row.sessions for row in rows)
    # Shown by: make test-slow PYTEST_ARGS=--junit-xml=FILE
    record_testsuite_property("writers_at_once_at_most", most)
    assert 1 < most <= slots


def test_database_refused_no_connection(stack: RunningStack, rows: list[Any]):
    """Neither the role's limit nor the server's was ever hit."""
    log = (stack.home.root / "logs/programs/postgres.log").read_text()
    assert "database system is ready" in log
    assert "too many c" not in log  # connections for role, clients already
    assert "remaining connection slots" not in log

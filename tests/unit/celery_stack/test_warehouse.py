"""Who may write to the warehouse, how many at once, and where its URL comes from."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_stack.migrate import MigrationError, main, migrate, read_url
from celery_stack.queues import load_declarations
from celery_stack.warehouse import PoolError, read_rows, write_rows
from celery_stack.warehouse.fence import Writer, writer_of
from celery_stack.warehouse.role import connection_limit, limit_connections

STARTED = datetime(2026, 11, 21, tzinfo=UTC)


def context(pool: str, map_index: int | None = -1) -> dict[str, Any]:
    names = {"dag_id": "wdbc_ingest", "run_id": "daily", "task_id": "store", "try_number": 2}
    return {
        "ti": SimpleNamespace(**names, map_index=map_index),
        "task": SimpleNamespace(pool=pool),
        "dag_run": SimpleNamespace(start_date=STARTED),
    }


def test_task_of_the_pool_may_write():
    """Its try is the one that the fence gets to see."""
    expected = Writer("wdbc_ingest", "daily", "store", 3, 2, STARTED)
    assert writer_of(context("pg_io", map_index=3)) == expected
    assert str(expected) == "DAG wdbc_ingest, run daily, task store [3]"
    assert writer_of(context("pg_io", map_index=None)).map_index == -1


def test_task_of_another_pool_is_refused():
    """Expected, found, what to do."""
    problem = "DAG wdbc_ingest, task store: .*in pool 'pg_io', found 'default_pool'. Set pool="
    with pytest.raises(PoolError, match=problem):
        writer_of(context("default_pool"))


def test_outside_of_a_task_nothing_is_written_or_read():
    """A shell or a DAG file at the top."""
    problem = "found no running task. Call read_rows and write_rows inside a task."
    with pytest.raises(PoolError, match=problem):
        write_rows([], "observations", keys=["observation_id"], columns=["observation_id"])
    with pytest.raises(PoolError, match=problem):
        read_rows("SELECT 1")


def test_package_is_light_to_import():
    """A DAG file imports it at the top, and is parsed for every task."""
    heavy = ["pandas", "numpy", "psycopg", "sqlalchemy", "alembic", "airflow"]
    code = f"import sys, celery_stack.warehouse; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_role_is_limited_to_the_pool_s_slots_and_a_margin():
    """PG_IO_SLOTS moves it."""
    assert connection_limit(load_declarations({})) == 6
    assert connection_limit(load_declarations({"PG_IO_SLOTS": "10"})) == 12
    said: list[str] = []
    limit_connections(SimpleNamespace(execute=said.append), 6)  # type: ignore[arg-type]
    assert said == ["ALTER ROLE warehouse CONNECTION LIMIT 6"]


@pytest.mark.parametrize(
    "text", ['{"warehouse": "postgresql://u:p@h/d"}', "postgresql://u:p@h/d\n"]
)
def test_url_is_read_from_a_secret_or_a_file_of_connections(tmp_path: Path, text: str):
    """Both are there in the secrets' folder."""
    file = tmp_path / "secret"
    file.write_text(text)
    assert read_url(file) == "postgresql://u:p@h/d"


@pytest.mark.parametrize("text", [None, "{}", "{not JSON", '["a"]'])
def test_file_without_the_url_says_what_to_do(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
):
    """Without a traceback, and without what the file holds."""
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    assert main([str(file)]) == 1
    error = capsys.readouterr().err
    assert "warehouse" in error
    assert error.count("\n") == 1


def test_wrong_number_of_arguments_shows_the_usage(capsys: pytest.CaptureFixture[str]):
    """One file."""
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pass-word@127.0.0.1:1/d",
        "no url with pass-word",
        "mysql://u:pass-word@127.0.0.1:1/d",
    ],
)
def test_password_stays_out_of_the_error(url: str):
    """Whatever is wrong with the URL."""
    with pytest.raises(MigrationError) as found:
        migrate(url)
    assert "pass-word" not in str(found.value)

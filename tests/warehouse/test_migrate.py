"""The schema comes out the same however often, and by however many, it is brought up to date."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.migrate import main
from celery_stack.warehouse.role import limit_connections
from ml.schema import COLUMNS
from tests.waiting import wait_for

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
NAMES = "SELECT column_name FROM information_schema.columns WHERE table_name = 'observations'"


def test_tables_are_those_of_the_pipeline(warehouse: Connection[Any]):
    """And the columns of the observations are the pipeline's."""
    tables = {name for (name,) in warehouse.execute(TABLES)}
    assert tables == {
        "alembic_version",
        "drift",
        "metrics",
        "model_runs",
        "observations",
        "predictions",
        "write_fences",
    }
    columns = {name for (name,) in warehouse.execute(NAMES)}
    assert columns == {*COLUMNS, "source", "stored_at"}


def test_migration_again_keeps_the_rows(
    warehouse: Connection[Any], connections_file: Path, capsys: pytest.CaptureFixture[str]
):
    """Nothing is said: the URL carries a password."""
    warehouse.execute("INSERT INTO drift VALUES ('v1', 'today', 'score', 0.1, 5)")
    warehouse.commit()
    assert main([str(connections_file)]) == 0
    assert warehouse.execute("SELECT count(*) FROM drift").fetchone() == (1,)
    assert capsys.readouterr() == ("", "")


def test_migrations_at_once_agree(superuser: Connection[Any], connections_file: Path):
    """As where several hosts start at the same time."""
    tables = "drift, metrics, model_runs, predictions, observations, write_fences, alembic_version"
    superuser.execute(f"DROP TABLE {tables}")
    command = [sys.executable, "-m", "celery_stack.migrate", str(connections_file)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 3
    assert superuser.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


@pytest.fixture
def limit(superuser: Connection[Any]) -> Iterator[Callable[[int], None]]:
    """Give a function that sets the role's limit; lifted afterwards."""
    yield lambda limit: limit_connections(superuser.cursor(), limit)
    limit_connections(superuser.cursor(), -1)


def test_database_itself_refuses_one_connection_too_many(
    superuser: Connection[Any], warehouse_url: str, limit: Callable[[int], None]
):
    """Whoever asks."""
    used = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'warehouse'"
    wait_for(lambda: superuser.execute(used).fetchone(), lambda n: n == (0,), deadline_s=20)
    limit(2)
    refused = pytest.raises(psycopg.OperationalError, match="too many connections for role")
    with psycopg.connect(warehouse_url), psycopg.connect(warehouse_url), refused:
        psycopg.connect(warehouse_url)

"""A Postgres of the tests' own: in a folder of its own, on a port that was free."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.migrate import migrate
from compose.secret_files import read_secret
from tests.warehouse.embedded import running_warehouse


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Give the secrets' folder and the superuser's URL."""
    with tempfile.TemporaryDirectory(prefix="warehouse-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as url:
            yield Path(folder) / "secrets", url


@pytest.fixture(scope="session")
def connections_file(server: tuple[Path, str]) -> Path:
    """Give the file from which workers read the connection `warehouse`."""
    return server[0] / "worker/connections.json"


@pytest.fixture(scope="session")
def warehouse_url(server: tuple[Path, str]) -> str:
    """Give the URL of the migrated warehouse, as its own role."""
    secrets, superuser = server
    password = read_secret(secrets / "postgres/warehouse")
    url = f"postgresql://warehouse:{password}@{superuser.split('@', 1)[1]}"
    migrate(url)
    return url


@pytest.fixture
def superuser(server: tuple[Path, str]) -> Iterator[Connection[Any]]:
    """Give a superuser's connection to the warehouse, every statement a transaction."""
    with psycopg.connect(server[1], autocommit=True) as connection:
        yield connection


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[Connection[Any]]:
    """Give a connection as PostgresHook opens it, to a warehouse without rows."""
    with psycopg.connect(warehouse_url) as connection:
        tables = "drift, metrics, model_runs, predictions, observations, write_fences"
        connection.execute(f"TRUNCATE {tables}")
        connection.commit()
        yield connection

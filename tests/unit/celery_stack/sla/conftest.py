"""A metadata database with Airflow's tables and those of the SLAs, in an embedded Postgres."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from airflow.models import import_all_models
from airflow.models.base import Base
from psycopg import Connection

from celery_stack.sla import schema
from tests.warehouse.embedded import running_warehouse

WRITTEN = ("sla.mail", "sla.record", "task_instance", "dag_run", "serialized_dag", "dag_version")
WRITTEN += ("dag", "dag_bundle")


@pytest.fixture(scope="session")
def metadata_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of the superuser of a metadata database without rows."""
    with tempfile.TemporaryDirectory(prefix="metadata-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as warehouse:
            url = f"{warehouse.rpartition('/')[0]}/airflow"
            import_all_models()
            engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
            Base.metadata.create_all(engine)
            engine.dispose()
            with psycopg.connect(url) as connection:
                connection.execute("create schema if not exists sla")
                schema.create(connection)
            yield url


@pytest.fixture
def metadata(metadata_url: str) -> Iterator[Connection[Any]]:
    """Give the monitor's connection to it, with nothing in the tables that tests write."""
    with psycopg.connect(metadata_url, autocommit=True) as connection:
        for table in WRITTEN:
            connection.execute(f"delete from {table}")  # noqa: S608  # much faster than to truncate
        yield connection

"""A Postgres with Airflow's schema and ours, to which tests write what Airflow would have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from sqlalchemy.engine import make_url

from celery_stack.sla.monitor import Floor, look
from compose.secret_files import Addresses, postgres_url
from compose.servers import prepare_slas
from tests.sla.looks import config_of
from tests.sla.promised import Promised, running_promises
from tests.sla.runs import Metadata
from tests.warehouse.embedded import running_warehouse


@contextmanager
def running_metadata(folder: Path) -> Iterator[Metadata]:
    """Run Postgres with a migrated, empty metadata database below `folder`."""
    with running_warehouse(folder) as superuser:
        port = make_url(superuser).port
        assert port is not None
        secrets, addresses = folder / "secrets", Addresses("127.0.0.1", port, "127.0.0.1", 1)
        airflow = postgres_url(secrets, addresses, "airflow")
        settings = {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow.replace(
                "postgresql:", "postgresql+psycopg2:", 1
            ),
        }
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=os.environ | settings,
            check=True,
            capture_output=True,
        )
        prepare_slas(secrets, addresses)
        yield Metadata(airflow, postgres_url(secrets, addresses, "sla", database="airflow"))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metadata]:
    with running_metadata(tmp_path_factory.mktemp("sla")) as metadata:
        yield metadata


# The last first. Deleted: to truncate them makes dozens of files anew, which takes more than a second.
WRITTEN = (
    *("task_instance_history", "task_instance", "dag_run"),
    *("deadline_alert", "serialized_dag", "dag_version", "dag"),
)
RECORDED = ("sla.mail_record", "sla.mail", "sla.record", "sla.interval")


@pytest.fixture
def metadata(database: Metadata) -> Metadata:
    """Give the database without runs and records."""
    with psycopg.connect(database.airflow_url) as connection:
        for table in WRITTEN:
            connection.execute(f"delete from {table}")  # noqa: S608 - a constant
    with psycopg.connect(database.sla_url) as connection:
        for table in RECORDED:
            connection.execute(f"delete from {table}")  # noqa: S608 - a constant
        connection.execute("update sla.beginning set first_look = now() - interval '1 day'")
    return database


@pytest.fixture
def monitor(metadata: Metadata) -> Iterator[Connection[Any]]:
    """Give a connection with the rights of the monitor, and no more."""
    with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def looks(metadata: Metadata, monitor: Connection[Any]) -> Callable[[datetime], None]:
    """Give what makes one monitor look, at a moment."""
    floor = Floor()
    return lambda now: look(monitor, config_of(metadata), floor, now=now)


@pytest.fixture(scope="session")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promised]:
    """Give the whole stack with runs whose promises are kept and broken."""
    with running_promises(tmp_path_factory.mktemp("promised")) as promised:
        yield promised

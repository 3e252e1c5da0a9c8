"""What all tests share: Airflow with a home and settings of its own, and where metrics go."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import pytest

from celery_stack.check_dags import private_airflow
from tests.exporter import Exporter

with private_airflow(os.environ):
    importlib.import_module("airflow.dag_processing.dagbag")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    """Where the environment says that metrics go."""
    exporter = Exporter()
    for name, value in {"ON": "True", "HOST": "127.0.0.1", "PORT": str(exporter.port)}.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{name}", value)
    yield exporter
    exporter.close()

"""What a task tells reaches the exporter from a template, too, which has dropped what its worker had open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_stack import metrics
from tests.unit.celery_stack.exporter import Exporter
from tests.unit.celery_stack.warm.conftest import Worker

TELLS = """
import os
from celery_stack import metrics
os.register_at_fork(after_in_child=lambda: metrics.count("told.by.a.task"))
"""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    """Give an exporter that this process, the worker, has a way to."""
    exporter = Exporter()
    for name, value in {"ON": "True", "HOST": "127.0.0.1", "PORT": str(exporter.port)}.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{name}", value)
    metrics.connect()
    yield exporter
    exporter.close()


def test_task_of_a_template_tells_the_exporter(exporter: Exporter, worker: Worker):
    """Through a socket of the template server's own."""
    worker.write("tells", top=TELLS)
    worker.wait_for_task("tells")
    assert set(exporter.wait_for("airflow.told")) == {"airflow.told.by.a.task:1|c"}

"""What a task tells reaches the exporter from a template, too, which has dropped what its worker had open."""

from __future__ import annotations

import pytest

from celery_stack import metrics
from tests.exporter import Exporter
from tests.unit.celery_stack.warm.conftest import Worker

TELLS = """
import os
from celery_stack import metrics
os.register_at_fork(after_in_child=lambda: metrics.count("told.by.a.task"))
"""


@pytest.fixture
def way_out(exporter: Exporter) -> Exporter:
    """Give an exporter that this process, the worker, has a way to."""
    metrics.connect()
    return exporter


def test_task_of_a_template_tells_the_exporter(way_out: Exporter, worker: Worker):
    """Through a socket of the template server's own."""
    worker.write("tells", top=TELLS)
    worker.wait_for_task("tells")
    assert set(way_out.wait_for("airflow.told")) == {"airflow.told.by.a.task:1|c"}

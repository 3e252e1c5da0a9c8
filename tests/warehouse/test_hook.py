"""`write_rows` as a task calls it: through PostgresHook, with the connection of the secrets file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.providers.postgres.hooks import postgres

from celery_stack.warehouse import write_rows


def test_task_writes_through_its_connection(
    warehouse: psycopg.Connection[Any], connections_file: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hook's driver is the one that the write path speaks."""
    url = json.loads(connections_file.read_text())["warehouse"]
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", url)
    instance = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1}
    context = {
        "ti": SimpleNamespace(**instance),
        "task": SimpleNamespace(pool="pg_io"),
        "dag_run": SimpleNamespace(start_date=datetime(2026, 11, 21, tzinfo=UTC)),
    }
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context, raising=False)
    rows = [{"model_version": "v1", "metric": "auc", "value": 0.99}]
    assert write_rows(rows, "metrics", keys=["model_version", "metric"]).changed == 1
    assert warehouse.execute("SELECT value FROM metrics").fetchall() == [(0.99,)]
    assert postgres.USE_PSYCOPG3

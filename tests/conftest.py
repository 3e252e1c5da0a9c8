"""What all tests share: Airflow with a home and settings of its own, where metrics go, and a browser."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from celery_stack.check_dags import private_airflow
from tests.browser import running_browser
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give the machine's own Chromium, without a window."""
    with running_browser() as browser:
        yield browser


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Give the folder for pictures of what was seen: SCREENSHOTS, to look at them later."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

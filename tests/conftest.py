"""Airflow for the tests: a home and settings of its own, whichever test imports it first."""

from __future__ import annotations

import importlib
import os

import pytest

from celery_stack.check_dags import private_airflow

with private_airflow(os.environ):
    importlib.import_module("airflow.dag_processing.dagbag")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run quick tests first: a mistake shows before a stack starts, and no stack idles meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)

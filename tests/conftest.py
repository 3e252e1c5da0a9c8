"""Airflow for the tests: a home and settings of its own, whichever test imports it first."""

from __future__ import annotations

import importlib
import os

from celery_stack.check_dags import private_airflow

with private_airflow(os.environ):
    importlib.import_module("airflow.dag_processing.dagbag")

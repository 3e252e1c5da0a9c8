"""The stack's executor is CeleryExecutor to everything that asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow._shared.module_loading import import_string
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.executor_utils import ExecutorName
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from celery.signals import before_task_publish

from celery_stack.check_dags import airflow_environment
from celery_stack.executor import StackCeleryExecutor
from celery_stack.publish_time import HEADER


@pytest.fixture
def shared_settings(tmp_path: Path) -> dict[str, str]:
    return airflow_environment({}, tmp_path)


def test_airflow_loads_the_executor_that_the_shared_settings_name(
    shared_settings: dict[str, str],
) -> None:
    """`[core] executor` leads to our class, which is a CeleryExecutor."""
    name = ExecutorName(module_path=shared_settings["AIRFLOW__CORE__EXECUTOR"])
    executor, _ = ExecutorLoader.import_executor_cls(name)
    assert executor is StackCeleryExecutor
    assert issubclass(executor, CeleryExecutor)


def test_shared_hostname_callable_exists(shared_settings: dict[str, str]) -> None:
    """`[core] hostname_callable` names a function that gives a name."""
    assert import_string(shared_settings["AIRFLOW__CORE__HOSTNAME_CALLABLE"])()


def test_messages_of_the_executor_say_when_they_were_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From its start on: the worker tells from it how long they waited."""
    monkeypatch.setenv("WAKE_SCHEDULER", "off")
    headers: dict[str, float] = {}
    StackCeleryExecutor().start()
    before_task_publish.send(sender="execute_workload", headers=headers)
    assert headers[HEADER] > 0

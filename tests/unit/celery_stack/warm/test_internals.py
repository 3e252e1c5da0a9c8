"""What the warm workers rely upon in Airflow, and what happens where it is otherwise."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from airflow.sdk.execution_time import supervisor

from celery_stack.queues import load_declarations
from celery_stack.warm import coordinator, internals
from compose.commands import warm_workers


@pytest.fixture(autouse=True)
def _anew():
    for cached in (internals.find_differences, coordinator.is_supported):
        cached.cache_clear()
    yield
    for cached in (internals.find_differences, coordinator.is_supported):
        cached.cache_clear()


def test_installed_airflow_is_as_expected():
    """An upgrade that changes what is relied upon fails here, before it falls back in silence."""
    assert internals.find_differences() == ()


def test_other_internals_fall_back_to_airflow_with_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A function that takes something else is named."""
    monkeypatch.setattr(supervisor, "_fork_main", lambda elsewhere: None)
    with caplog.at_level(logging.WARNING):
        assert not coordinator.is_supported()
    assert "supervisor._fork_main takes no child_stderr, child_stdout" in caplog.text


def test_switched_off_supervisor_is_airflows_own(monkeypatch: pytest.MonkeyPatch):
    """WARM_SUPERVISOR=off: Airflow's coordinator runs the task."""
    monkeypatch.setenv("WARM_SUPERVISOR", "off")
    seen: list[dict[str, Any]] = []

    class Stock:
        def execute_task(self, **start: Any) -> str:
            seen.append(start)
            return "result"

    monkeypatch.setattr(coordinator, "_build_python_coordinator", Stock)
    assert coordinator.WarmCoordinator().execute_task(what="task") == "result"
    assert seen == [{"what": "task"}]


def test_every_declared_queue_runs_under_the_warm_supervisor(monkeypatch: pytest.MonkeyPatch):
    """Airflow finds our coordinator for each of them, and its own for others."""
    from airflow.sdk.execution_time.coordinator import CoordinatorManager, _PythonCoordinator

    declarations = load_declarations({})
    for name, value in warm_workers(declarations).items():
        monkeypatch.setenv(name, value)
    manager = CoordinatorManager.from_config()
    for queue in declarations.queues:
        assert isinstance(manager.for_queue(queue), coordinator.WarmCoordinator)
    assert isinstance(manager.for_queue("other"), _PythonCoordinator)

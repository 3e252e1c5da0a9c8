"""What Flower shows of a message names the task, and holds nothing of its token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.signals import before_task_publish

from celery_stack.task_label import HIDDEN, label_messages, label_of
from compose.flower import hide_content, name_task

TOKEN = "eyJhbGciOiJIUzUxMiJ9.secret"


def workload(map_index: int | None) -> str:
    task = {"dag_id": "etl", "task_id": "load", "run_id": "manual__1", "map_index": map_index}
    return json.dumps({"token": TOKEN, "ti": task, "type": "ExecuteTask"})


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (workload(-1), "etl.load"),
        (workload(None), "etl.load"),
        (workload(3), "etl.load[3]"),
        ('{"callback": {}, "type": "ExecuteCallback"}', HIDDEN),
        ("not JSON", HIDDEN),
        ("7", HIDDEN),
    ],
)
def test_label_names_dag_task_and_map_index(content: str, label: str):
    """Of what is no task instance nothing is told."""
    assert label_of(content) == label


@pytest.fixture
def published() -> Iterator[list[Any]]:
    """Give the messages that an application publishes whose messages are labelled."""
    messages: list[Any] = []

    def keep(headers: dict[str, Any], body: Any, **_: Any) -> None:
        messages.append((headers, body))

    label_messages()
    before_task_publish.connect(keep, weak=False, dispatch_uid="test")
    app = Celery("test", broker="memory://", set_as_current=False)

    @app.task
    def work(*_: Any) -> None: ...

    work.delay(workload(3))
    work.delay()
    yield messages
    for uid in ("test", "celery_stack.task_label"):
        before_task_publish.disconnect(dispatch_uid=uid)


def test_message_carries_its_label_beside_its_content(published: list[Any]):
    """Celery's events show the one, the worker gets the other."""
    [(headers, body), (empty, _)] = published
    assert headers["argsrepr"] == "etl.load[3]"
    assert body[0] == (workload(3),)
    assert empty["argsrepr"] == HIDDEN


def test_flower_shows_a_task_under_its_label():
    """One without a label keeps Celery's name."""
    named = name_task(SimpleNamespace(name="execute_workload", args="etl.load[3]"))
    assert named.name == "etl.load[3]"
    for args in ("", None, HIDDEN):
        assert name_task(SimpleNamespace(name="execute_workload", args=args)).name != args


def test_flower_keeps_nothing_of_what_waiting_tasks_hold():
    """A worker tells it of reserved and of scheduled ones, each in its own form."""

    class Inspector:
        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def _on_update(self, _worker: str, method: str, response: Any) -> None:
            self.kept[method] = response

    hide_content(Inspector)
    inspector: Any = Inspector()
    inspector._on_update("worker@a", "reserved", [{"id": "1", "args": [workload(3)]}])
    inspector._on_update("worker@a", "scheduled", [{"request": {"args": [workload(-1)]}}])
    inspector._on_update("worker@a", "active_queues", [{"name": "default"}])
    assert inspector.kept == {
        "reserved": [{"id": "1", "args": "etl.load[3]"}],
        "scheduled": [{"request": {"args": "etl.load"}}],
        "active_queues": [{"name": "default"}],
    }

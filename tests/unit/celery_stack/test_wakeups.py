"""Which requests wake the scheduler, and that the answer never depends on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stack_plugin
from celery_stack import wakeups
from celery_stack.wakeups import WakeUpMiddleware

TASK = "/execution/task-instances/019ab0c2-7f3e-7c11-8e57-0242ac120002"


class Application:
    """Answers every request with a status; remembers, in order, what happened."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.happened: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status})
        await send({"type": "http.response.body", "body": b""})
        self.happened.append("committed")

    async def send(self, message: Any) -> None:
        self.happened.append(message["type"])

    async def publish(self) -> None:
        self.happened.append("published")


def after(method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Send one request through the middleware; give what happened."""
    app = Application(status)
    monkeypatch.setattr(wakeups, "publish", app.publish)
    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(WakeUpMiddleware(app)(scope, None, app.send))  # type: ignore[arg-type]
    return app.happened


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v2/dags/etl/dagRuns"),
        ("PATCH", "/api/v2/dags/etl"),
        ("DELETE", "/api/v2/dags/etl/dagRuns/manual"),
        ("POST", "/below/a/proxy/api/v2/dags/etl/clearTaskInstances"),
        ("PATCH", f"{TASK}/state"),
        ("POST", "/execution/dag-runs/etl/manual"),
    ],
)
def test_change_wakes_after_its_answer_and_its_commit(
    method: str, path: str, monkeypatch: pytest.MonkeyPatch
):
    """Whoever is woken finds the change; whoever asked has not waited for it."""
    happened = after(method, path, 200, monkeypatch)
    assert happened[-2:] == ["committed", "published"]
    assert happened.index("http.response.body") < happened.index("published")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v2/dags", 200),
        ("GET", "/execution/dag-runs/etl/manual/state", 200),
        ("POST", "/api/v2/dags/etl/dagRuns", 409),
        ("PATCH", f"{TASK}/state", 500),
        ("PATCH", f"{TASK}/run", 200),
        ("PUT", f"{TASK}/heartbeat", 204),
        ("POST", "/execution/xcoms/etl/manual/load/return_value", 201),
        ("POST", "/auth/token", 201),
    ],
)
def test_what_changes_nothing_wakes_nobody(
    method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
):
    """Reads, refusals, and what running tasks say now and then."""
    assert "published" not in after(method, path, status, monkeypatch)


def test_connections_that_are_no_requests_pass_unchanged(monkeypatch: pytest.MonkeyPatch):
    """The server's own start and stop go through the middleware as well."""
    app = Application(200)
    asyncio.run(WakeUpMiddleware(app)({"type": "lifespan"}, None, app.send))  # type: ignore[arg-type]
    assert "published" not in app.happened


def test_unreachable_database_is_no_error_of_the_request(monkeypatch: pytest.MonkeyPatch):
    """A wake-up that is lost costs a second, so nothing is raised."""
    from airflow import settings

    monkeypatch.setattr(settings, "AsyncSession", None)
    asyncio.run(wakeups.publish())


def test_switched_off_the_api_server_has_no_middleware():
    """`WAKE_SCHEDULER=off` is stock; on is the default."""
    assert stack_plugin.middlewares({"WAKE_SCHEDULER": "off"}) == []
    (entry,) = stack_plugin.middlewares({})
    assert entry["middleware"] is WakeUpMiddleware

"""What the stack measures itself reaches the exporter, as it is mapped; and nothing else depends on it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.listeners.listener import ListenerManager
from airflow.sdk._shared.listeners.spec import taskinstance
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import before_task_publish, worker_ready
from statsd import StatsClient

from celery_stack import metrics
from celery_stack.publish_time import HEADER, seconds_waited, stamp_messages
from celery_stack.worker_metrics import TOLD, consumed, worker_pool_of
from compose.guard import Guard
from compose.maintenance import measure_disk
from stack_plugin import StackPlugin
from tests.exporter import Exporter


def test_samples_carry_prefix_tags_and_unit(exporter: Exporter):
    """Durations travel in milliseconds; clocks that differ make none below zero."""
    metrics.count("warehouse.rows", 500, table="observations")
    metrics.gauge("worker.slots", 4, worker="worker@3f2a", worker_pool="worker")
    metrics.timing("queue.wait", 1.5, queue="default")
    metrics.timing("queue.wait", -0.2, queue="skewed")
    expected = [
        "airflow.warehouse.rows,table=observations:500|c",
        "airflow.worker.slots,worker=worker@3f2a,worker_pool=worker:4|g",
        "airflow.queue.wait,queue=default:1500.000000|ms",
        "airflow.queue.wait,queue=skewed:0.000000|ms",
    ]
    assert exporter.wait_for(expected[-1]) == expected


def test_tag_cannot_break_the_line(exporter: Exporter):
    """Neither into another tag or sample, nor out of ASCII."""
    metrics.gauge("ml.score", 1, score="a,b=c:d|e\nf ü")
    assert exporter.wait_for("airflow") == ["airflow.ml.score,score=a_b_c_d_e_f__:1|g"]


def test_nothing_is_sent_where_metrics_are_off(exporter: Exporter, monkeypatch: pytest.MonkeyPatch):
    """As without Docker."""
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "False")
    metrics.count("warehouse.rows")
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    metrics.count("backup.made")
    assert exporter.wait_for("airflow") == ["airflow.backup.made:1|c"]


def test_exporter_without_an_address_is_asked_for_now_and_then(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
):
    """A process that starts before it loses samples, not its work; a look-up may take seconds."""
    asked, known = [], False

    def client(*args: Any, **options: Any) -> StatsClient:
        asked.append(args)
        if not known:
            raise socket.gaierror("Name or service not known")
        return StatsClient("127.0.0.1", exporter.port, **options)

    monkeypatch.setattr(metrics, "StatsClient", client)
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_HOST", "statsd-exporter")
    metrics.gauge("worker.slots", 3)
    metrics.gauge("worker.slots", 4)
    assert len(asked) == 1
    known, later = True, time.monotonic() + metrics.ASK_AGAIN_S
    monkeypatch.setattr(metrics.time, "monotonic", lambda: later)
    metrics.gauge("worker.slots", 5)
    assert exporter.wait_for("airflow") == ["airflow.worker.slots:5|g"]


@pytest.fixture
def app() -> Iterator[Celery]:
    """Give an application whose broker is this process's memory, and whose messages say when they were published."""
    app = Celery("test", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = "pg_io"
    stamp_messages()
    yield app
    before_task_publish.disconnect(dispatch_uid="celery_stack.publish_time")


def test_worker_tells_what_waited_its_slots_and_its_queues(app: Celery, exporter: Exporter):
    """Through Celery's own signals, with a worker that runs a task."""

    @app.task
    def work() -> None: ...

    TOLD.at = float("-inf")
    options: dict[str, Any] = {"perform_ping_check": False, "without_heartbeat": False}
    with start_worker(app, pool="solo", hostname="worker-2@vm", **options) as worker:
        worker_ready.send(sender=worker.consumer)  # Celery's test worker does not
        work.delay()
        labels = "worker=worker-2@vm,worker_pool=worker"
        lines = exporter.wait_for(
            "airflow.queue.wait,queue=pg_io:",
            f"airflow.worker.slots,{labels}:1|g",
            f"airflow.worker.busy_slots,{labels}:0|g",
            f"airflow.worker.consuming,{labels},queue=pg_io:1|g",
        )
    [waited] = [line for line in lines if line.startswith("airflow.queue.wait")]
    assert 0 < float(re.findall(r":(.+)\|ms", waited)[0]) < 30_000
    TOLD.consumer = None


@pytest.mark.parametrize("redelivered", [True, False])
def test_message_that_came_back_says_nothing_of_its_wait(redelivered: bool):
    """Its age holds the time that its first worker had it."""

    class Request(dict[str, Any]):
        delivery_info = {"routing_key": "default", "redelivered": redelivered}  # noqa: RUF012

    task = SimpleNamespace(request=Request({HEADER: 1.0}))
    assert (seconds_waited(task) is None) is redelivered


def test_message_of_another_publisher_says_nothing_of_its_wait():
    """One that was in Redis before an upgrade carries no time."""
    assert seconds_waited(SimpleNamespace(request={})) is None


def test_worker_without_connection_consumes_nothing():
    """As `inspect active_queues` has it."""
    assert consumed(SimpleNamespace(task_consumer=None)) == []


@pytest.mark.parametrize(
    ("node", "pool"),
    [("worker@3f2a", "worker"), ("worker-cpu-train-12@vm", "worker-cpu-train")],
)
def test_worker_pool_is_told_from_the_node(node: str, pool: str):
    """With Docker and without."""
    assert worker_pool_of(node) == pool


def test_start_overhead_is_told_once_per_try(exporter: Exporter):
    """A task that goes on after a trigger has the start it had before."""
    started = datetime.now(UTC) - timedelta(seconds=2)
    manager = ListenerManager()
    manager.add_hookspecs(taskinstance)
    for listener in StackPlugin.listeners:
        manager.add_listener(listener)

    def begin(queue: str, next_method: str | None) -> None:
        answer = SimpleNamespace(next_method=next_method)
        instance = SimpleNamespace(start_date=started, queue=queue, _ti_context_from_server=answer)
        manager.hook.on_task_instance_running(previous_state=None, task_instance=instance)

    begin("resumed", "execute_complete")
    begin("default", None)
    [line] = exporter.wait_for("airflow")
    assert line.startswith("airflow.task.start_overhead,queue=default:20")


def test_disk_is_measured_where_the_volumes_lie(exporter: Exporter, tmp_path):
    """Size and what is free."""
    measure_disk(tmp_path)
    lines = exporter.wait_for("airflow.disk.free_bytes:", "airflow.disk.size_bytes:")
    sizes = {line.split(":")[0]: int(line.split(":")[1].removesuffix("|g")) for line in lines}
    assert 0 < sizes["airflow.disk.free_bytes"] <= sizes["airflow.disk.size_bytes"]


def test_guard_tells_that_its_worker_is_there(exporter: Exporter, monkeypatch: pytest.MonkeyPatch):
    """Whether or not Celery in it still says anything."""
    monkeypatch.setenv("AIRFLOW__CELERY__BROKER_URL", "memory://")
    guard = Guard(["sleep", "60"], "worker-cpu-train", {"cpu_train"}, 1, 1)
    try:
        guard._show_life()
        guard._show_life()
    finally:
        guard.worker.kill()
        guard.worker.wait()
    labels = f"worker=worker-cpu-train@{socket.gethostname()},worker_pool=worker-cpu-train"
    assert exporter.wait_for("airflow") == [f"airflow.worker.alive,{labels}:1|g"]

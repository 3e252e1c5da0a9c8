"""Messages that are none, or that the api-server refuses: the worker goes on, says so, and can be stopped."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from redis import Redis

from tests.faults.conftest import PARALLELISM, WORKER_SLOTS, program
from tests.faults.test_lost_messages import executions, start
from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
QUEUE = "default"
REFUSED = 12


def worker_log(stack: RunningStack) -> str:
    return (stack.home.program_logs / "worker-1.log").read_text(errors="replace")


def test_worker_goes_on_after_entries_that_are_no_messages(stack: RunningStack, tmp_path: Path):
    """Garbage, JSON of another shape, a task that nobody knows and a workload that is none."""
    stack.client.wait_for_dag("counted", deadline_s=90)
    worker = program(stack, "worker-1")
    said = len(worker_log(stack))
    run_id = start(stack, tmp_path / "run")
    with Redis.from_url(stack.broker_url) as redis:
        sound = redis.lindex(QUEUE, 0)
        unknown = changed(sound, headers={"task": "unheard-of"})
        no_workload = changed(sound, body={"type": "ExecuteTask"})
        redis.rpush(QUEUE, b"\x00\xffgarbage", b'{"a": 1}', unknown, no_workload)  # next in turn
    (tmp_path / "run/gate").touch()
    assert stack.wait_for_end("counted", run_id, deadline_s=180) == "success"
    assert executions(tmp_path / "run") == dict.fromkeys(range(PARALLELISM), 1)
    assert worker.is_running()
    log = worker_log(stack)[said:]
    assert "found an entry that is none (not JSON): dropped it" in log
    assert "in queue default, without properties.delivery_tag" in log
    assert "unregistered task" in log
    assert "validation error" in log


def test_worker_whose_tasks_are_refused_stops_when_it_is_told_to(
    stack: RunningStack, tmp_path: Path
):
    """The errors of the api-server reach Celery's main process, which still ends and is started again."""
    run_id = start(stack, tmp_path / "run")
    worker = program(stack, "worker-1")
    with Redis.from_url(stack.broker_url) as redis:
        sound = redis.lindex(QUEUE, 0)
        redis.rpush(QUEUE, *(of_another_task(sound) for _ in range(REFUSED)))
    said = len(worker_log(stack))
    (tmp_path / "run/gate").touch()
    wait_for(
        lambda: worker_log(stack)[said:].count("ServerResponseError"),
        lambda count: count >= WORKER_SLOTS,
        deadline_s=60,
    )
    worker.terminate()
    psutil.wait_procs([worker], timeout=90)
    assert not worker.is_running()
    assert stack.wait_for_end("counted", run_id, deadline_s=180) == "success"
    assert executions(tmp_path / "run") == dict.fromkeys(range(PARALLELISM), 1)


def changed(raw: bytes, headers: dict[str, Any] | None = None, body: Any = None) -> str:
    """Give a message under an id of its own, with other headers and another argument of its task."""
    message = json.loads(raw)
    message["headers"] |= {"id": str(uuid4())} | (headers or {})
    message["properties"]["delivery_tag"] = str(uuid4())
    if body is not None:
        arguments = [[json.dumps(body)], {}, {}]
        message["body"] = base64.b64encode(json.dumps(arguments).encode()).decode()
    return json.dumps(message)


def of_another_task(raw: bytes) -> str:
    """Give the message with a task instance that does not exist, whose token is another's."""
    [[workload], *_] = json.loads(base64.b64decode(json.loads(raw)["body"]))
    content = json.loads(workload)
    content["ti"]["id"] = str(uuid4())
    return changed(raw, body=content)

"""Whatever stands in a queue's list, a worker goes on; tried with Celery's own worker on a real Redis."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.result import AsyncResult

from celery_stack.transport import Transport, problem_of
from tests.redis_server import running_redis
from tests.warehouse.embedded import free_port

TAG = {"delivery_tag": "tag"}
SENT = {**TAG, "delivery_info": {"exchange": "", "routing_key": "default"}}
HEADERS = {"id": "id", "task": "double"}
BODY = base64.b64encode(json.dumps([[1], {}, {}]).encode()).decode()
SOUND = {"headers": HEADERS, "properties": SENT, "body": BODY, "content-type": "application/json"}


def double(number: int) -> int:
    return 2 * number


@pytest.fixture(scope="module")
def celery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celery]:
    """Give an application whose tasks a worker runs, in a thread."""
    port = free_port()  # a URL of a socket names its transport itself
    with running_redis(tmp_path_factory.mktemp("redis"), port):
        url = f"redis://127.0.0.1:{port}/0"
        transport = f"{Transport.__module__}.{Transport.__name__}"
        celery = Celery("stack", broker=url, backend=url, set_as_current=False)
        celery.conf.update(
            broker_transport=transport,
            task_default_queue="default",
            worker_hijack_root_logger=False,
        )
        celery.task(name="double")(double)
        with start_worker(celery, perform_ping_check=False, shutdown_timeout=30):
            yield celery


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (b"\x00\xff\xfegarbage", "not JSON"),
        (b"", "not JSON"),
        (b'{"__type__": "unheard-of", "__value__": 1}', "not JSON"),
        (b"42", "a int instead of an object"),
        (b"[]", "a list instead of an object"),
        (b"{}", "without properties.delivery_tag"),
        (json.dumps({"properties": TAG}).encode(), "without properties.delivery_info"),
        (json.dumps(SOUND | {"headers": None}).encode(), "without headers"),
        (json.dumps(SOUND | {"body": {}}).encode(), "without a body"),
        (
            json.dumps(
                SOUND | {"properties": SENT | {"body_encoding": "base64"}, "body": "A"}
            ).encode(),
            "without a body",
        ),
    ],
)
def test_entry_that_is_no_message_is_dropped_and_told(
    celery: Celery, entry: bytes, said: str, caplog: pytest.LogCaptureFixture
):
    """The task behind it runs."""
    caplog.set_level("INFO")
    result = send_behind(celery, entry)
    assert result.get(timeout=20) == 42
    assert said in caplog.text


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (SOUND | {"headers": {}, "body": base64.b64encode(b"{}").decode()}, "unknown message"),
        (SOUND | {"headers": HEADERS | {"task": "unheard-of"}}, "unregistered task"),
        (SOUND | {"content-type": "application/x-python-serialize"}, "Refusing to deserialize"),
    ],
    ids=["no task", "unknown task", "pickle"],
)
def test_message_that_no_task_takes_is_dropped_and_told(
    celery: Celery, message: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
):
    """Celery's own doing, which we rely on."""
    caplog.set_level("INFO")
    message = message | {"properties": SENT | {"body_encoding": "base64"}}
    result = send_behind(celery, json.dumps(message).encode())
    assert result.get(timeout=20) == 42
    assert said in caplog.text


def test_sound_message_has_no_problem():
    """As the entries above are told apart from it."""
    assert problem_of(SOUND) == ""


def send_behind(celery: Celery, entry: bytes) -> AsyncResult:
    """Put `entry` into the queue, and a task behind it."""
    with redis.Redis.from_url(celery.conf.broker_url) as client:
        client.lpush("default", entry)
    result: AsyncResult = celery.send_task("double", (21,))
    return result

"""What the exporter counts in Redis is how Celery keeps what waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from compose.home import REPO
from tests.redis_server import running_redis

SCRIPT = REPO / "monitoring/redis/queues.lua"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[redis.Redis]:
    """A Redis of the test's own, on a socket."""
    with running_redis(tmp_path) as client:
        yield client


def lengths(broker: redis.Redis) -> dict[str, int]:
    listed: Any = broker.eval(SCRIPT.read_text(), 0)
    return {name: int(length) for name, length in zip(listed[::2], listed[1::2], strict=True)}


def test_queues_are_counted_empty_ones_as_zero(broker: redis.Redis):
    """Redis has no list that is empty: what is not there has to be told apart from what is unknown."""
    assert lengths(broker) == {"default": 0, "pg_io": 0, "cpu_train": 0, "unacked": 0}
    broker.lpush("pg_io", "one", "two")
    broker.hset("unacked", "tag", "message")
    assert lengths(broker) == {"default": 0, "pg_io": 2, "cpu_train": 0, "unacked": 1}

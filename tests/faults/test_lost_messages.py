"""Redis loses what it had: queued tasks run without a hand laid on them, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from tests.faults.conftest import PARALLELISM, WORKER_SLOTS, program
from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
# Two looks and the tasks themselves take a minute on a quiet machine.
DEADLINE_S = 180
STATES = "SELECT state, count(*) FROM task_instance WHERE run_id = %s AND task_id = 'work' GROUP BY state"


def forget(stack: RunningStack) -> None:
    """Empty Redis under everybody's open connections."""
    with Redis.from_url(stack.broker_url) as client:
        client.flushall()


def lose_volume(stack: RunningStack) -> None:
    """Kill Redis; it starts again without its data."""
    for file in stack.home.redis.rglob("*"):  # in a folder of their own since Redis 7
        if file.suffix in (".aof", ".rdb", ".manifest"):
            file.unlink()
    program(stack, "redis").kill()


@pytest.mark.parametrize("lose", [forget, lose_volume])
def test_queued_tasks_run_although_redis_lost_their_messages(
    stack: RunningStack, tmp_path: Path, lose: Callable[[RunningStack], None]
):
    """Those that ran go on, none runs twice, and every place is free afterwards."""
    stack.client.wait_for_dag("counted", deadline_s=90)
    run_id = start(stack, tmp_path / "first")
    lose(stack)
    (tmp_path / "first/gate").touch()
    assert stack.wait_for_end("counted", run_id, deadline_s=DEADLINE_S) == "success"
    assert executions(tmp_path / "first") == dict.fromkeys(range(PARALLELISM), 1)

    run_id = start(stack, tmp_path / "second")  # as many as there are places
    (tmp_path / "second/gate").touch()
    assert stack.wait_for_end("counted", run_id, deadline_s=DEADLINE_S) == "success"


def start(stack: RunningStack, folder: Path) -> str:
    """Start as many tasks as there are places, and wait until the worker is full and the rest queued."""
    folder.mkdir()
    run_id = stack.client.trigger("counted", {"tasks": PARALLELISM, "folder": str(folder)})
    full = {"running": WORKER_SLOTS, "queued": PARALLELISM - WORKER_SLOTS}
    wait_for(
        lambda: {row.state: row.count for row in stack.metadata(STATES, run_id)},
        lambda states: states == full,
        deadline_s=120,
    )
    return run_id


def executions(folder: Path) -> Counter[int]:
    return Counter(int(line) for line in (folder / "executions").read_text().splitlines())

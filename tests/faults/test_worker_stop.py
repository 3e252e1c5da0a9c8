"""A worker whose tasks fail all the time ends when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from compose.home import REPO
from tests.redis_server import running_redis
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]
WORKERS = 3
SLOTS = 4
TASKS = 400
LARGE = 300_000  # fills the pipe between the pool and its main process several times
# billiard's processes wait for 30 s that their last results are read, if they are not.
STOP_WITHIN_S = 90


def test_worker_stops_while_its_tasks_fail(tmp_path: Path):
    """However large the errors: what passes between its processes stays small. Several, for it is a race."""
    with running_redis(tmp_path) as redis:
        url = f"redis+socket://{tmp_path / 'redis.sock'}"
        workers = [start_worker(f"queue-{number}", url, tmp_path) for number in range(WORKERS)]
        try:
            for queue, worker in workers:
                fail_all_the_time(queue, url)
                wait_for(lambda queue=queue: busy(redis, queue), bool, deadline_s=60)
                worker.terminate()
            assert [worker.wait(STOP_WITHIN_S) for _, worker in workers] == [0] * WORKERS
        finally:
            for _, worker in workers:
                worker.kill()


def start_worker(queue: str, url: str, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(REPO / "plugins"), str(REPO / "tests/faults")])
    env = os.environ | {"BROKER": url, "C_FORCE_ROOT": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "celery", "--app", "failing_app", "worker", "--queues", queue]
    command += ["--concurrency", str(SLOTS), "--hostname", queue, "--loglevel", "CRITICAL"]
    with (folder / f"{queue}.log").open("wb") as log:
        return queue, subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)


def fail_all_the_time(queue: str, url: str) -> None:
    with Celery(broker=url, set_as_current=False) as celery:
        for _ in range(TASKS):
            celery.send_task("execute_workload", (LARGE,), queue=queue)


def busy(redis: Redis, queue: str) -> bool:
    return 0 < redis.llen(queue) < TASKS - 4 * SLOTS

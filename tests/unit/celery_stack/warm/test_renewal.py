"""Pool processes that have run tasks are replaced: in a pool of Celery's own, with its event loop."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from celery_stack.warm.renewal import Renewal, renewal_of
from tests.waiting import wait_for

PROCESSES = 2
TURNS = 100


@dataclass
class Worker:
    """A pool, the loop that hands out its tasks, and what looks at it."""

    pool: Any
    loop: Iterator[Any]
    renewal: Renewal

    def turn_until(self, holds: Callable[[], bool]) -> None:
        """Turn the loop until something holds."""

        def turn() -> bool:
            for _ in range(TURNS):
                if holds():
                    return True
                next(self.loop)
            return False

        wait_for(turn, bool, deadline_s=20)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give the result of a task."""
        results: list[Any] = []
        self.pool.apply_async(function, arguments, callback=results.append)
        self.turn_until(lambda: bool(results))
        return results[0]

    def pids(self) -> set[int]:
        """Give the processes that take tasks."""
        return {process.pid for process in self.pool._pool}

    def is_complete(self) -> bool:
        """Say whether each process of the pool is ready."""
        return len(self.pool._all_inqueues) == PROCESSES == len(self.pool._pool)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Give a worker with two processes, which is quiet as soon as no task has been handed out."""
    monkeypatch.setattr("celery_stack.warm.renewal.QUIET_S", 0.0)
    former, hub = get_event_loop(), Hub()
    set_event_loop(hub)
    hub.call_repeatedly(0.02, lambda: None)  # else a turn waits for something to happen
    pool = AsynPool(PROCESSES, threads=False)
    pool.register_with_event_loop(hub)
    renewal = renewal_of(pool)
    assert renewal is not None
    worker = Worker(pool, hub.create_loop(), renewal)
    worker.turn_until(worker.is_complete)
    renewal.look()
    yield worker
    pool.terminate()
    set_event_loop(former)


def test_process_that_ran_a_task_is_replaced_and_the_unused_one_stays(worker: Worker):
    """Once: what has replaced it is unused too."""
    before, used = worker.pids(), worker.run(os.getpid)
    worker.renewal.look()
    worker.turn_until(lambda: used not in worker.pids() and worker.is_complete())
    assert len(worker.pids() & before) == PROCESSES - 1
    after = worker.pids()
    worker.renewal.look()
    assert worker.pids() == after
    assert {worker.run(os.getpid) for _ in range(4)} <= after


def test_process_that_is_ended_gets_no_task(worker: Worker):
    """A task that comes at this very moment goes to the other one."""
    used = worker.run(os.getpid)
    worker.renewal.look()
    assert worker.run(os.getpid) != used


def test_running_task_is_left_alone(worker: Worker):
    """However quiet the worker is besides."""
    started: list[int] = []
    worker.pool.apply_async(signal.pause, accept_callback=lambda pid, _: started.append(pid))
    worker.turn_until(lambda: bool(started))
    worker.renewal.look()
    worker.renewal.look()
    next(worker.loop)
    assert not [process for process in worker.pool._pool if process.exitcode is not None]
    assert started[0] in worker.pids()


def test_pool_that_is_drained_is_left_alone(worker: Worker):
    """What ends while the worker stops is not made anew."""
    used = worker.run(os.getpid)
    worker.pool.close()
    worker.renewal.look()
    assert used in worker.pids()


def test_other_kind_of_pool_is_left_alone(caplog: pytest.LogCaptureFixture):
    """With a line in the log: an upgrade of Celery, or a pool of threads."""
    with caplog.at_level(logging.WARNING):
        assert renewal_of(object()) is None
    assert "Pool processes are kept as they are: the pool has no _active_writes" in caplog.text

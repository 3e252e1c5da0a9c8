"""The scheduler's idle sleep: ends at a wake-up, never late, and stock where it cannot be woken."""

from __future__ import annotations

import ast
import inspect
import logging
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from airflow.jobs import scheduler_job_runner
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

from celery_stack import idle_sleep
from celery_stack.executor import StackCeleryExecutor
from celery_stack.idle_sleep import BUSY_REST, BUSY_TASKS, Listener, WakeableTime

IDLE_S = 1.0
LOOP_S = 0.05
FEW, MANY = range(BUSY_TASKS), range(BUSY_TASKS + 1)


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Events:
    """Stands for a listener: wake-ups come at the given times."""

    def __init__(self, clock: Clock, *at: float) -> None:
        self.clock, self.at = clock, list(at)

    def wait(self, seconds: float) -> bool:
        end = self.clock.now + seconds
        self.clock.now = max(self.clock.now, min([end, *self.at]))
        heard = [moment for moment in self.at if moment <= self.clock.now]
        self.at = self.at[len(heard) :]
        return bool(heard)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that the module goes by."""
    clock = Clock()
    monkeypatch.setattr(idle_sleep, "time", clock)
    return clock


@pytest.fixture
def stock_scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the scheduler's module, which is stock again afterwards."""
    monkeypatch.setattr(scheduler_job_runner, "time", time)
    return scheduler_job_runner


def wakeable(clock: Clock, events: Sequence[float], running: range) -> WakeableTime:
    return WakeableTime(Events(clock, *events), running)  # type: ignore[arg-type]


def ends_of_sleeps(clock: Clock, events: Sequence[float], running: range) -> list[float]:
    """Let loops of LOOP_S and sleeps take turns; give when the sleeps ended, after the start."""
    sleeper, start, ends = wakeable(clock, events, running), clock.now, []
    for _ in range(3):
        clock.now += LOOP_S
        sleeper.sleep(IDLE_S)
        ends.append(round(clock.now - start, 3))
    return ends


def test_few_tasks_wake_at_once(clock: Clock):
    """Each event ends a sleep when it comes, and one that comes during a loop the sleep after it."""
    assert ends_of_sleeps(clock, [100.07, 100.09, 100.3], FEW) == [0.07, 0.12, 0.3]


def test_many_tasks_are_collected(clock: Clock):
    """Events that come while the scheduler rests from its last loop wake it once, at the rest's end."""
    first = round(LOOP_S * (1 + BUSY_REST), 3)
    assert ends_of_sleeps(clock, [100.07, 100.09, 100.1, 100.9], MANY) == [first, 0.9, 1.95]


@pytest.mark.parametrize("running", [FEW, MANY])
@pytest.mark.parametrize("seconds", [0, 0.1, IDLE_S])
def test_sleep_is_never_longer_than_stock(clock: Clock, running: range, seconds: float):
    """Not with events nor without, however often they come and however near the next timer is."""
    sleeper = wakeable(clock, [100.01, 100.02, 100.7], running)
    for _ in range(5):
        clock.now += 10 * LOOP_S
        before = clock.now
        sleeper.sleep(seconds)
        assert clock.now - before <= seconds + 1e-9


def refuse() -> Any:
    """Try to connect where nobody listens."""
    return psycopg2.connect(host="127.0.0.1", port=1)


def test_sleep_is_stock_while_the_database_is_away(clock: Clock, caplog: pytest.LogCaptureFixture):
    """Whole sleeps, fewer and fewer attempts to connect, and one line about all of them."""
    caplog.set_level(logging.WARNING)
    attempts: list[float] = []
    listener = Listener(lambda: attempts.append(clock.now) or refuse())
    for sleeps in range(1, 121):
        assert not listener.wait(IDLE_S)
        assert clock.now == 100 + sleeps * IDLE_S
    assert [round(moment - 100) for moment in attempts] == [0, 1, 3, 7, 15, 31, 61, 91]
    (line,) = caplog.messages
    assert "looks by its clock until it can be woken" in line
    assert "refused" in line


def test_installed_scheduler_sleeps_in_the_one_place_that_is_replaced():
    """What is relied upon: its module names `time` for the idle sleep, and for nothing else."""
    tree = ast.parse(inspect.getsource(scheduler_job_runner))
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "time"]
    assert len(uses) == 1
    loop = inspect.getsource(SchedulerJobRunner._run_scheduler_loop)
    idle = "time.sleep(min(self._scheduler_idle_sleep_time, next_event or 0))"
    assert loop.count(idle) == 1


def start_executor(monkeypatch: pytest.MonkeyPatch, setting: str) -> StackCeleryExecutor:
    monkeypatch.setenv("WAKE_SCHEDULER", setting)
    executor = StackCeleryExecutor()
    executor.start()
    return executor


def test_started_executor_makes_the_scheduler_wakeable(
    stock_scheduler: Any, monkeypatch: pytest.MonkeyPatch
):
    """From then on it sleeps until a wake-up; all else that it may ask of `time` is as it was."""
    start_executor(monkeypatch, "on")
    assert isinstance(stock_scheduler.time, WakeableTime)
    assert stock_scheduler.time.monotonic is time.monotonic


def test_switched_off_the_scheduler_is_stock(stock_scheduler: Any, monkeypatch: pytest.MonkeyPatch):
    """`WAKE_SCHEDULER=off` replaces nothing."""
    start_executor(monkeypatch, "off")
    assert stock_scheduler.time is time


def test_other_scheduler_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """One that keeps its time otherwise stays as it is, and one line says so."""
    other = SimpleNamespace()
    monkeypatch.setattr(scheduler_job_runner, "time", other)
    caplog.set_level(logging.WARNING)
    start_executor(monkeypatch, "on")
    assert scheduler_job_runner.time is other
    assert "not woken" in caplog.text

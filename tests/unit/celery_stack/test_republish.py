"""Messages that Redis lost are published again; what Redis, a worker or nobody needs any more is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
import redis
from airflow import settings
from airflow.models import DagModel, DagRun, TaskInstance, import_all_models
from airflow.models.base import Base
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from celery import Celery
from celery.result import AsyncResult
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from celery_stack.executor import StackCeleryExecutor
from celery_stack.messages import Broker
from celery_stack.republish import START_PATIENCE, Republisher
from tests.redis_server import running_redis
from tests.waiting import wait_for

JOB, OTHER_JOB = 7, 8
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def redis_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("redis")
    with running_redis(folder):
        yield folder


@pytest.fixture
def client(redis_folder: Path) -> redis.Redis:
    client = redis.Redis(unix_socket_path=str(redis_folder / "redis.sock"), decode_responses=True)
    client.flushall()
    return client


@pytest.fixture
def celery(redis_folder: Path, client: redis.Redis) -> Celery:
    return make_celery(redis_folder)


def make_celery(folder: Path) -> Celery:
    url = f"redis+socket://{folder / 'redis.sock'}"
    return Celery("stack", broker=url, backend=url, set_as_current=False)


@pytest.fixture(autouse=True)
def metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metadata database in memory, with one run."""
    import_all_models()
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    monkeypatch.setattr(settings, "Session", sessionmaker(engine))
    with create_session() as session:
        session.add(DagModel(dag_id="etl", bundle_name="dags", relative_fileloc="etl.py"))
        session.add(DagRun(dag_id="etl", run_id="run", run_type="manual", state="running"))


@dataclass
class Stack:
    """A scheduler's executor, the metadata and Redis; looks at them are the test's own."""

    celery: Celery
    executor: StackCeleryExecutor = field(init=False)
    republisher: Republisher = field(init=False)

    def __post_init__(self) -> None:
        self.executor = StackCeleryExecutor(parallelism=8)
        self.executor.job_id = JOB
        self.executor.celery_app = self.executor.bulk_state_fetcher.celery_app = self.celery
        self.republisher = Republisher(self.executor, Broker(self.celery), every_s=15)

    def task(
        self,
        task_id: str,
        state: str = "queued",
        *,
        queued_at: datetime = LONG_AGO,
        job: int = JOB,
        queue: str = "default",
    ) -> str:
        """Have the scheduler wait for a task's result; give its Celery id."""
        message_id = str(uuid4())
        row = {"id": uuid4(), "dag_id": "etl", "run_id": "run", "task_id": task_id, "map_index": -1}
        row |= {"state": state, "try_number": 1, "max_tries": 0, "pool": "default_pool"}
        row |= {"queue": queue, "queued_dttm": queued_at, "queued_by_job_id": job}
        row |= {"external_executor_id": message_id, "priority_weight": 1, "pool_slots": 1}
        row |= {"dag_version_id": uuid4()}
        with create_session() as session:
            session.execute(insert(TaskInstance.__table__), [row])
        key = key_of(task_id)
        self.executor.running.add(key)
        self.executor.workloads[key] = AsyncResult(message_id, app=self.celery)
        return message_id

    def publish(self, message_id: str, queue: str = "default") -> None:
        self.celery.send_task("execute_workload", ("{}",), task_id=message_id, queue=queue)

    def look(self, times: int = 2) -> dict[str, str | None]:
        """Look so many times; give the Celery ids of the tasks that are to be published again."""
        for _ in range(times):
            self.republisher.look()
        queued = self.executor.queued_tasks.items()
        return {key.task_id: workload.ti.external_executor_id for key, workload in queued}


def key_of(task_id: str) -> TaskInstanceKey:
    return TaskInstanceKey("etl", task_id, "run", 1, -1)


@pytest.fixture
def stack(celery: Celery) -> Stack:
    return Stack(celery)


def take(client: redis.Redis, celery: Celery, since: datetime) -> None:
    """Take the next message of `default` as a worker does that has not acknowledged it."""
    with celery.connection_for_read() as connection:
        connection.SimpleQueue("default").get(timeout=5)
        [(tag, raw)] = client.hgetall("unacked").items()
    client.hset("unacked", tag, raw)  # closing the connection may give it back
    client.delete("default")
    client.zadd("unacked_index", {tag: since.timestamp()})


def test_lost_message_is_published_again_after_two_looks_under_its_own_id(stack: Stack):
    """The executor has its place free again, and the task to publish; the first look only notes it."""
    message_id = stack.task("load")
    assert stack.look(1) == {}
    assert stack.look(1) == {"load": message_id}
    assert not stack.executor.running
    assert not stack.executor.workloads


def test_messages_in_any_queue_and_priority_are_found(stack: Stack):
    """In the lists that kombu keeps for each of them."""
    stack.publish(stack.task("load"))
    message_id = stack.task("write", queue="pg_io")
    stack.celery.send_task(
        "execute_workload", ("{}",), task_id=message_id, queue="pg_io", priority=9
    )
    assert stack.look() == {}


def test_entries_that_are_no_messages_are_passed_over(stack: Stack, client: redis.Redis):
    """Whatever else is in the list, what is lost is found."""
    message_id = stack.task("load")
    client.lpush("default", "\x00garbage", "[]", '{"headers": null}')
    client.hset("unacked", "tag", "garbage")
    assert stack.look() == {"load": message_id}


def test_message_just_taken_is_left_to_its_worker(stack: Stack, client: redis.Redis):
    """It is about to start the task."""
    stack.publish(stack.task("load"))
    take(client, stack.celery, since=datetime.now(UTC))
    assert stack.look() == {}


def test_message_of_a_worker_that_is_gone_is_published_again(stack: Stack, client: redis.Redis):
    """Taken long ago, not started, and held by none that answers."""
    message_id = stack.task("load")
    stack.publish(message_id)
    take(client, stack.celery, since=datetime.now(UTC) - START_PATIENCE)
    assert stack.look() == {"load": message_id}


def test_message_that_a_worker_holds_is_not_published_again(stack: Stack):
    """The workers are asked before."""
    message_id = stack.task("load")
    answer = {"worker-1@here": {message_id: ["reserved", {}]}}
    with patch("celery.app.control.Inspect.query_task", return_value=answer):
        assert stack.look(3) == {}
    assert stack.look(1) == {"load": message_id}


@pytest.mark.parametrize(
    "other",
    [
        {"queued_at": datetime(2100, 1, 1, tzinfo=UTC)},
        {"state": "running"},
        {"state": "queued", "job": OTHER_JOB},
    ],
    ids=["just queued", "running", "another scheduler's"],
)
def test_other_tasks_are_left_alone(stack: Stack, other: dict[str, Any]):
    """Only what this scheduler queued, and that has waited for a while."""
    stack.task("load", **other)
    assert stack.look() == {}


def test_nothing_is_asked_of_redis_while_nothing_is_queued(stack: Stack):
    """A running task costs a query of the metadata, an idle scheduler not even that."""
    with patch.object(Broker, "read", side_effect=AssertionError):
        stack.look()
        stack.task("load", "running")
        stack.look()


def test_task_that_started_in_between_is_not_published_again(stack: Stack):
    """What the look saw may be over by the time it acts."""
    stack.task("load")
    stack.look(1)

    def start(_: Republisher, message_ids: set[str]) -> set[str]:
        with create_session() as session:
            [task] = session.query(TaskInstance)
            task.state = TaskInstanceState.RUNNING
        return set()

    with patch.object(Republisher, "_held", start):
        assert stack.look(1) == {}
    assert key_of("load") in stack.executor.running


def test_place_of_a_task_whose_result_was_lost_is_given_back(stack: Stack):
    """After two looks: in between its result may still come."""
    stack.task("load", "success")
    stack.look(1)
    assert key_of("load") in stack.executor.running
    stack.look(1)
    assert not stack.executor.running
    assert not stack.executor.workloads


def test_looks_are_apart_however_often_the_scheduler_loops(stack: Stack):
    """At least so many seconds, and longer where looking takes long."""
    with patch.object(Republisher, "look") as look, patch("celery_stack.republish.time") as clock:
        clock.monotonic.side_effect = [100.0, 102.0]
        stack.republisher._next_look = 90
        stack.republisher.look_when_due()
        clock.monotonic.side_effect = [139.0, 140.0, 140.0]
        stack.republisher.look_when_due()
        assert look.call_count == 1
        stack.republisher.look_when_due()
    assert look.call_count == 2


def test_outage_of_redis_neither_ends_the_scheduler_nor_fails_what_it_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is queued meanwhile is published as soon as Redis is back, and looks begin anew."""
    monkeypatch.setenv("WAKE_SCHEDULER", "off")
    stack = Stack(make_celery(tmp_path))
    executor = stack.executor
    sent: list[Any] = []
    with patch.object(
        StackCeleryExecutor, "_process_workloads", lambda _, items: sent.extend(items)
    ):
        with running_redis(tmp_path):
            executor.start()
            stack.task("load")
            stack.look(1)
        executor._republisher = stack.republisher
        executor.heartbeat()
        assert executor._redis_is_away
        stack.republisher._next_look = 0
        executor.heartbeat()
        executor.queued_tasks[key_of("load")] = workload()
        executor.heartbeat()
        assert sent == []
        (tmp_path / "redis.sock").unlink(missing_ok=True)
        with running_redis(tmp_path):
            wait_for(lambda: executor.heartbeat() or sent, bool, deadline_s=10)
        assert executor.event_buffer == {}


def workload() -> Any:
    from unittest.mock import Mock

    return Mock(ti=Mock(priority_weight=1))

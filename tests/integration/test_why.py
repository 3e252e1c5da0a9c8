"""`explain` and `make why`, asked of tasks that are really held.

Everything that is held is started at once, in the fixture; each test waits for one answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from socket import gethostname

import pytest
from celery import Celery
from redis import Redis

from celery_stack.live_workers import connect
from celery_stack.why import Code, Reason, UnknownTaskError
from compose.client import StackError
from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.either_path]

QUEUE, NODE = "cpu_train", f"worker-cpu-train-1@{gethostname()}"
DAGS = ("held", "held_training", "held_paused")
MESSAGE = "SELECT external_executor_id FROM task_instance WHERE run_id = %s AND map_index = %s"


@dataclass(frozen=True)
class Held:
    """Runs whose tasks are held, by DAG, and what it takes to ask why."""

    stack: RunningStack
    runs: dict[str, str]
    broker: Celery
    redis: Redis

    def ask(self, dag_id: str, task_id: str, map_index: int = -1, run_id: str = "") -> Reason:
        return self.stack.why(dag_id, run_id or self.runs[dag_id], task_id, map_index)

    def wait_for(
        self, code: Code, dag_id: str, task_id: str, map_index: int = -1, run_id: str = ""
    ) -> Reason:
        return wait_for(
            lambda: self.ask(dag_id, task_id, map_index, run_id),
            lambda reason: reason.code == code,
            deadline_s=90,
        )

    def running(self, task_id: str = "hold") -> int:
        """Wait until one of the two instances of a task runs; give its index."""
        codes = wait_for(
            lambda: [self.ask("held", task_id, index).code for index in (0, 1)],
            lambda codes: Code.RUNNING in codes,
            deadline_s=90,
        )
        return codes.index(Code.RUNNING)


@pytest.fixture(scope="module")
def held(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """Start everything that is held; at the end open the gate, and leave nothing queued."""
    gate = tmp_path_factory.mktemp("held") / "gate"
    broker, redis = connect(stack.broker_url), Redis.from_url(stack.broker_url)
    runs: dict[str, str] = {}
    for dag_id in DAGS:
        wait_for(partial(stack.client.find_dag, dag_id), bool, deadline_s=90)
    consume(broker, False)
    try:
        for dag_id in DAGS:
            runs[dag_id] = stack.client.trigger(dag_id, {"gate": str(gate)})
        runs["second held_training"] = stack.client.trigger("held_training", {"gate": str(gate)})
        yield Held(stack, runs, broker, redis)
    finally:
        end_runs(stack, runs)
        gate.touch()
        consume(broker, True)
        wait_for(lambda: messages_left(redis), lambda left: left == 0, deadline_s=120)


def test_paused_dag(held: Held):
    """Nothing of it is looked at."""
    reason = held.wait_for(Code.PAUSED, "held_paused", "run")
    assert "DAG held_paused is paused" in reason.text


def test_running_task(held: Held):
    """Where, and since when."""
    running = held.running()
    assert "It is running: on worker-" in held.ask("held", "hold", running).text


def test_upstream(held: Held):
    """The upstream instances that are not done are named with their states."""
    running = held.running()
    reason = held.wait_for(Code.UPSTREAM, "held", "after")
    states = dict(names_and_states(reason))
    assert states.keys() == {"hold[0]", "hold[1]"}
    assert states[f"hold[{running}]"] == "running"


def test_full_pool(held: Held):
    """Who holds its slots is named."""
    running = held.running()
    reason = held.wait_for(Code.POOL_FULL, "held", "want_pool")
    assert "Pool pg_io is full, 2 of 4 slots are taken, it needs 3" in reason.text
    assert "PG_IO_SLOTS" in reason.text
    assert names_and_states(reason) == [(f"hold[{running}]", "running")]


def test_limit_of_the_task(held: Held):
    """One at a time, in a run or in all of them: the other instance is named."""
    for task_id, limit in (("hold", "per_dagrun"), ("alone", "per_dag")):
        running = held.running(task_id)
        reason = held.wait_for(Code.TASK_LIMIT, "held", task_id, 1 - running)
        assert f"max_active_tis_{limit}=1:" in reason.text
        assert names_and_states(reason) == [(f"{task_id}[{running}]", "running")]


def test_backoff(held: Held):
    """Which retry, and when."""
    assert "for retry 1 of 3" in held.wait_for(Code.BACKOFF, "held", "fail").text


def test_deferred(held: Held):
    """To which trigger."""
    reason = held.wait_for(Code.DEFERRED, "held", "defer")
    assert "temporal.DateTimeTrigger since" in reason.text


def test_max_active_tasks(held: Held):
    """Three of the run's tasks wait in Redis: they count."""
    reason = held.wait_for(Code.MAX_ACTIVE_TASKS, *train(3))
    assert "max_active_tasks=3" in reason.text
    assert names_and_states(reason) == [(f"train[{index}]", "queued") for index in range(3)]


def test_max_active_runs(held: Held):
    """The run that runs is named."""
    second = held.runs["second held_training"]
    reason = held.wait_for(Code.RUN_QUEUED, *train(0), run_id=second)
    assert [h.name for h in reason.holders] == [f"held_training {held.runs['held_training']}"]


def test_what_redis_and_the_workers_say(held: Held, stack: RunningStack):
    """No worker; a message that a worker took along; one that is nowhere; then a full worker."""
    wait_for(lambda: held.redis.llen(QUEUE), lambda length: length == 3, deadline_s=60)
    assert "start worker-cpu-train" in held.wait_for(Code.NO_WORKER, *train(0)).text
    assert f"No worker consumes queue {QUEUE}" in stack.command("status").stdout
    taken, lost = (take_message(held, index) for index in (0, 1))
    try:
        with kept_by_a_worker_that_is_gone(held.redis, taken):
            assert held.ask(*train(0)).code == Code.TAKER_GONE
        reason = held.wait_for(Code.LOST, *train(1))
        assert "neither in Redis nor at a worker" in reason.text
    finally:
        held.redis.lpush(QUEUE, taken, lost)  # on the left: behind the others
    consume(held.broker, True)
    alone = f"Queue {QUEUE} has 1 waiting, 0 of them before it"
    reason = wait_for(
        lambda: held.ask(*train(1)), lambda reason: alone in reason.text, deadline_s=90
    )
    assert reason.code == Code.QUEUE_BUSY
    assert names_and_states(reason) == [("train[0]", "running"), ("train[2]", "running")]


def test_make_why_prints_the_answer(held: Held, stack: RunningStack):
    """Name, sentence, holders; the run is the latest one where none is named."""
    running = held.running()
    held.wait_for(Code.TASK_LIMIT, "held", "hold", 1 - running)
    told = stack.command("why", "held", f"hold[{1 - running}]")
    run = f"held {held.runs['held']} hold"
    name, sentence, holder = told.stdout.splitlines()
    assert name == f"{run}[{1 - running}]"
    assert sentence.startswith("The task has reached its max_active_tis_per_dagrun=1")
    assert holder.startswith(f"  {run}[{running}]  running  worker-")


def test_what_does_not_exist_is_answered_with_what_does(held: Held):
    """Tasks of the run, instances of a mapped task."""
    with pytest.raises(
        UnknownTaskError, match=r"after, alone, defer, fail, hold, want_pool; got 'runn'"
    ):
        held.ask("held", "runn")
    with pytest.raises(UnknownTaskError, match=r"hold\[0\] to hold\[1\]"):
        held.ask("held", "hold")


def test_done_task(held: Held, stack: RunningStack):
    """Its state, since when; for the paused DAG nothing ran at all."""
    end_runs(stack, {"held_paused": held.runs["held_paused"]})
    assert "It is done: skipped" in held.wait_for(Code.DONE, "held_paused", "run").text


def names_and_states(reason: Reason) -> list[tuple[str, str]]:
    return [(holder.name.split()[-1], holder.state) for holder in reason.holders]


def train(index: int) -> tuple[str, str, int]:
    return "held_training", "train", index


def consume(broker: Celery, wanted: bool) -> None:
    """Let the training worker consume its queue, or keep it from doing so."""
    act = broker.control.add_consumer if wanted else broker.control.cancel_consumer
    assert act(QUEUE, destination=[NODE], reply=True, timeout=30), f"{NODE} does not answer"


def take_message(held: Held, index: int) -> bytes:
    """Take the message of a training task out of its queue."""
    [row] = held.stack.metadata(MESSAGE, held.runs["held_training"], index)
    message_id = row.external_executor_id.encode()
    [message] = [raw for raw in held.redis.lrange(QUEUE, 0, -1) if message_id in raw]
    assert held.redis.lrem(QUEUE, 1, message) == 1
    return message


@contextmanager
def kept_by_a_worker_that_is_gone(redis: Redis, message: bytes) -> Iterator[None]:
    """Keep the message where kombu keeps what is delivered and not acknowledged."""
    redis.hset("unacked", "tag", json.dumps([json.loads(message), "", QUEUE]))
    redis.zadd("unacked_index", {"tag": time.time()})
    yield
    redis.hdel("unacked", "tag")
    redis.zrem("unacked_index", "tag")


def end_runs(stack: RunningStack, runs: dict[str, str]) -> None:
    """End the runs, the last one first: it must not start when the one before it ends."""
    for name, run_id in reversed(runs.items()):
        wait_for(partial(end_run, stack, name.split()[-1], run_id), bool, deadline_s=30)


def end_run(stack: RunningStack, dag_id: str, run_id: str) -> bool:
    """End the run; False if the scheduler was at it at the same moment."""
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
    try:
        stack.client._send("PATCH", path, json={"state": "failed"})
    except StackError:
        return False
    return True


def messages_left(redis: Redis) -> int:
    queues = ("default", "pg_io", QUEUE)
    return sum(redis.llen(queue) for queue in queues) + redis.hlen("unacked")

"""Live slots that fit the limits are no news; the others are a line with the remedy."""

from __future__ import annotations

from celery_stack.live_workers import LiveWorker
from celery_stack.queues import load_declarations
from celery_stack.slots import Misfit, find_misfits

DEFAULT = LiveWorker("worker@a", ("default", "pg_io"), 4)
TRAINING = LiveWorker("worker-cpu-train@a", ("cpu_train",), 2)


def texts(*workers: LiveWorker, parallelism: int, **env: str) -> list[str]:
    return [m.text for m in find_misfits(workers, load_declarations(env), parallelism)]


def test_fitting_slots_are_no_news():
    """Six slots, six task instances, a pool of two for training."""
    assert texts(DEFAULT, TRAINING, parallelism=6, CPU_TRAIN_SLOTS="2") == []


def test_slots_above_parallelism_are_idle():
    """They cost memory and never run anything."""
    assert texts(DEFAULT, DEFAULT, TRAINING, parallelism=8, CPU_TRAIN_SLOTS="2") == [
        "10 worker slots, PARALLELISM=8: 2 can never fill. Raise PARALLELISM."
    ]


def test_slots_above_the_pool_of_their_queue_are_idle():
    """Nothing but that pool may use them."""
    assert texts(DEFAULT, TRAINING, parallelism=6, CPU_TRAIN_SLOTS="1") == [
        "2 worker slots, pool cpu_train=1: 1 can never fill. Raise CPU_TRAIN_SLOTS."
    ]


def test_a_worker_of_several_queues_is_not_idle_for_one_small_pool():
    """Its slots run what the other queue has."""
    both = LiveWorker("worker@b", ("cpu_train", "default"), 4)
    assert texts(both, DEFAULT, parallelism=8, CPU_TRAIN_SLOTS="1", DEFAULT_POOL_SLOTS="4") == []


def test_slots_above_all_pools_of_their_queues_are_idle():
    """A worker of two queues fills what the pools of both let out together."""
    pools = {"DEFAULT_POOL_SLOTS": "1", "PG_IO_SLOTS": "2", "CPU_TRAIN_SLOTS": "2"}
    assert texts(DEFAULT, TRAINING, parallelism=6, **pools) == [
        "4 worker slots, pool default_pool=1 and pool pg_io=2: 1 can never fill. "
        "Raise DEFAULT_POOL_SLOTS."
    ]


def test_a_small_pool_beside_others_is_no_news():
    """pg_io limits writers; the other slots of their workers run tasks of `default`."""
    assert texts(DEFAULT, TRAINING, parallelism=6, CPU_TRAIN_SLOTS="2", PG_IO_SLOTS="1") == []


def test_limits_above_the_slots_are_one_harmless_line():
    """What they let through waits in Redis and holds its pool slot there."""
    [misfit] = find_misfits([DEFAULT, TRAINING], load_declarations({"PG_IO_SLOTS": "8"}), 32)
    assert misfit == Misfit(
        "Limits above the live worker slots, the rest waits in Redis: "
        "PARALLELISM 32 > 6, pool cpu_train 4 > 2, pool pg_io 8 > 4.",
        is_harmless=True,
    )


def test_a_queue_that_no_worker_consumes_is_named():
    """Slots of a worker that answers but consumes nothing do not count."""
    idle = LiveWorker("worker-cpu-train@a", (), 2)
    assert texts(DEFAULT, idle, parallelism=4) == [
        "No worker consumes queue cpu_train: start worker-cpu-train."
    ]

"""Whether the slots of the live workers fit the limits: PARALLELISM and the pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from celery_stack.live_workers import LiveWorker
from celery_stack.queues import Declarations, Pool


@dataclass(frozen=True)
class Misfit:
    """Live slots and limits that do not fit; harmless where tasks only wait in another place."""

    text: str
    is_harmless: bool = False


def find_misfits(
    workers: Sequence[LiveWorker], declarations: Declarations, parallelism: int
) -> list[Misfit]:
    """Give what does not fit, each in one line with its remedy.

    A pool from PARALLELISM on limits nothing. One that is small beside others, as `pg_io` is, keeps
    no worker idle: to limit is what it is for.
    """
    consuming = [worker for worker in workers if worker.queues]
    return [
        *_unserved(consuming, declarations),
        *_idle(consuming, declarations, parallelism),
        *_waiting(consuming, declarations, parallelism),
    ]


def _unserved(workers: Sequence[LiveWorker], declarations: Declarations) -> Iterator[Misfit]:
    for queue in declarations.queues.values():
        if not any(queue.name in worker.queues for worker in workers):
            yield Misfit(f"No worker consumes queue {queue.name}: start {queue.worker}.")


def _idle(
    workers: Sequence[LiveWorker], declarations: Declarations, parallelism: int
) -> Iterator[Misfit]:
    """Name slots that can never fill."""
    slots = _slots(workers)
    if slots > parallelism:
        yield _idle_slots(slots, f"PARALLELISM={parallelism}", slots - parallelism, "PARALLELISM")
    for pools in dict.fromkeys(_pools_of(worker, declarations) for worker in workers):
        own = _slots(w for w in workers if set(_pools_of(w, declarations)).issubset(pools))
        open_to_them = sum(pool.slots for pool in pools)
        if pools and own > open_to_them:
            limit = " and ".join(f"pool {pool.name}={pool.slots}" for pool in pools)
            yield _idle_slots(own, limit, own - open_to_them, pools[0].variable)


def _idle_slots(slots: int, limit: str, idle: int, variable: str) -> Misfit:
    return Misfit(f"{slots} worker slots, {limit}: {idle} can never fill. Raise {variable}.")


def _waiting(
    workers: Sequence[LiveWorker], declarations: Declarations, parallelism: int
) -> Iterator[Misfit]:
    """Name limits that let more through than the workers can take; the rest waits in Redis."""
    above = [("PARALLELISM", parallelism, _slots(workers))]
    for pool in declarations.pools.values():
        if pool.slots < parallelism:
            live = _slots(w for w in workers if pool in _pools_of(w, declarations))
            above.append((f"pool {pool.name}", pool.slots, live))
    found = [f"{name} {size} > {live}" for name, size, live in above if size > live > 0]
    if found:
        text = "Limits above the live worker slots, the rest waits in Redis: "
        yield Misfit(text + ", ".join(found) + ".", is_harmless=True)


def _pools_of(worker: LiveWorker, declarations: Declarations) -> tuple[Pool, ...]:
    """Give the pools whose tasks the worker may get: those of its queues.

    A queue that names no pool has the tasks of every pool that belongs to no queue.
    """
    queues = declarations.queues
    named = {queues[name].pool for name in worker.queues if name in queues}
    bound = {queue.pool for queue in queues.values()}
    return tuple(
        pool
        for pool in declarations.pools.values()
        if pool.name in named or (None in named and pool.name not in bound)
    )


def _slots(workers: Iterable[LiveWorker]) -> int:
    return sum(worker.slots for worker in workers)

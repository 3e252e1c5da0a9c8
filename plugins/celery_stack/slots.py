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
    for queues, pools in _served(declarations):
        own = _slots(w for w in workers if queues.issuperset(w.queues))
        open_to_them = sum(pool.slots for pool in pools)
        if own > open_to_them:
            limit = " and ".join(f"pool {pool.name}={pool.slots}" for pool in pools)
            yield _idle_slots(own, limit, own - open_to_them, pools[0].variable)


def _idle_slots(slots: int, limit: str, idle: int, variable: str) -> Misfit:
    return Misfit(f"{slots} worker slots, {limit}: {idle} can never fill. Raise {variable}.")


def _waiting(
    workers: Sequence[LiveWorker], declarations: Declarations, parallelism: int
) -> Iterator[Misfit]:
    """Name limits that let more through than the workers can take; the rest waits in Redis."""
    above = [("PARALLELISM", parallelism, _slots(workers))]
    for queues, pools in _served(declarations):
        live = _slots(worker for worker in workers if queues.intersection(worker.queues))
        above += [
            (f"pool {pool.name}", pool.slots, live) for pool in pools if pool.slots < parallelism
        ]
    found = [f"{name} {size} > {live}" for name, size, live in above if size > live > 0]
    if found:
        text = "Limits above the live worker slots, the rest waits in Redis: "
        yield Misfit(text + ", ".join(found) + ".", is_harmless=True)


def _served(declarations: Declarations) -> Iterator[tuple[set[str], list[Pool]]]:
    """Give which queues go with which pools: a queue's own pool, the other pools with the others."""
    bound = {queue.pool for queue in declarations.queues.values() if queue.pool}
    for name in sorted(bound):
        queues = {queue.name for queue in declarations.queues.values() if queue.pool == name}
        yield queues, [declarations.pools[name]]
    free = {queue.name for queue in declarations.queues.values() if queue.pool is None}
    yield free, [pool for pool in declarations.pools.values() if pool.name not in bound]


def _slots(workers: Iterable[LiveWorker]) -> int:
    return sum(worker.slots for worker in workers)

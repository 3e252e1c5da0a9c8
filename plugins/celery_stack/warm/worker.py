"""Connects the warm workers to Celery: `imports` of `[celery] extra_celery_config` names this module.

It is also imported where Celery does not work on tasks (Flower), and does nothing there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from socket import socket
from typing import Any, NoReturn

from celery.signals import (
    celeryd_init,
    heartbeat_sent,
    worker_before_create_process,
    worker_init,
    worker_process_init,
    worker_ready,
)


@celeryd_init.connect  # type: ignore[untyped-decorator]
def bound_memory(conf: Any, **_: Any) -> None:
    """Have Celery replace, between two tasks, a process of its pool that has grown too large."""
    from celery_stack.settings import Settings

    kib = Settings.from_env(os.environ).WORKER_PROCESS_MAX_MIB * 1024
    conf.worker_max_memory_per_child = kib or None


@worker_init.connect  # type: ignore[untyped-decorator]
def prepare(**_: Any) -> None:
    """Import what tasks need, and make what each of them would make anew."""
    from celery_stack.settings import Settings
    from celery_stack.warm import coordinator, preload

    settings = Settings.from_env(os.environ)
    if settings.WARM_IMPORTS == "none":
        return
    names = (name.strip() for name in settings.WARM_IMPORTS.split(","))
    preload.import_all([*preload.AIRFLOW_MODULES, *filter(None, names)])
    if coordinator.is_supported():
        preload.make_shared()


@worker_before_create_process.connect  # type: ignore[untyped-decorator]
def fork_templates(**_: Any) -> None:
    """Fork the guardian of the template server, as late as can be before Celery forks its pool for the first time.

    What the main process does after a fork un-shares memory: here all of its start is behind it.
    """
    from celery_stack.settings import Settings
    from celery_stack.warm import coordinator, guardian, preload

    if coordinator.STATE.forking:  # not the first process of the pool, or one that replaces another
        return
    coordinator.STATE.forking = True
    supported = coordinator.is_supported()
    if supported:
        coordinator.STATE.preloaded = preload.preloaded_sources()
    preload.freeze()
    if supported and (most := Settings.from_env(os.environ).WARM_TEMPLATES):
        coordinator.STATE.template_server = _fork_guardian(guardian.guard, most)


@worker_ready.connect  # type: ignore[untyped-decorator]
def renew_pool(sender: Any, **_: Any) -> None:
    """Have idle processes of the pool renewed: not where they import for themselves, and would do so again."""
    from celery_stack.settings import Settings
    from celery_stack.warm import coordinator, preload, renewal

    if Settings.from_env(os.environ).WARM_IMPORTS == "none":
        return
    # Airflow has just unfrozen everything. Celery collects before each further fork, which would write to it all.
    preload.freeze_again()
    coordinator.STATE.renewal = renewal.renewal_of(sender.pool._pool)


@heartbeat_sent.connect  # type: ignore[untyped-decorator]
def look_at_pool(**_: Any) -> None:
    """Celery's main process sends one every two seconds, from the loop that hands out tasks."""
    from celery_stack.warm import coordinator

    if coordinator.STATE.renewal:
        coordinator.STATE.renewal.look()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def end_with_worker(**_: Any) -> None:
    """Have the supervisors, and with them their tasks, end when Celery's main process is killed."""
    from celery_stack.warm import coordinator, lifelines

    if coordinator.is_supported():
        lifelines.die_with_parent(os.getppid())


def _fork_guardian(guard: Callable[..., NoReturn], most: int) -> socket:
    from celery_stack.warm.channel import make_pair

    ours, theirs = make_pair()
    parent = os.getpid()
    if not os.fork():
        ours.close()
        guard(theirs, parent, most=most)
    theirs.close()
    return ours

"""Connects the warm workers to Celery: `imports` of `[celery] extra_celery_config` names this module.

It is also imported where Celery does not work on tasks (Flower), and does nothing there.
"""

from __future__ import annotations

import os
from typing import Any

from celery.signals import worker_init, worker_process_init


@worker_init.connect  # type: ignore[untyped-decorator]
def prepare(**_: Any) -> None:
    """Import what tasks need and fork the template server, before Celery forks its pool."""
    from celery_stack.settings import Settings
    from celery_stack.warm import coordinator, preload

    settings = Settings.from_env(os.environ)
    if settings.WARM_IMPORTS != "none":
        names = (name.strip() for name in settings.WARM_IMPORTS.split(","))
        preload.import_all([*preload.AIRFLOW_MODULES, *filter(None, names)])
        preload.freeze()
    if coordinator.is_supported():
        if settings.WARM_TEMPLATES:
            coordinator.STATE.template_server = _fork_server(settings.WARM_TEMPLATES)
        coordinator.STATE.preloaded = preload.preloaded_sources()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def end_with_worker(**_: Any) -> None:
    """Have the supervisors, and with them their tasks, end when Celery's main process is killed."""
    from celery_stack.warm import coordinator, lifelines

    if coordinator.is_supported():
        lifelines.die_with_parent(os.getppid())


def _fork_server(most: int) -> Any:
    from celery_stack.warm.channel import make_pair
    from celery_stack.warm.server import serve

    ours, theirs = make_pair()
    parent = os.getpid()
    if not os.fork():
        ours.close()
        serve(theirs, parent, most=most)
    theirs.close()
    return ours

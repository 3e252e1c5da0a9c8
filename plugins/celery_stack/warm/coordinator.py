"""Where Airflow takes a Python task's supervisor from: `[sdk] coordinators`, for each of our queues."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.coordinator import BaseCoordinator, _build_python_coordinator

from celery_stack.warm.internals import find_differences
from celery_stack.warm.sources import Signature, find_change

if TYPE_CHECKING:
    from celery_stack.warm.renewal import Renewal
    from celery_stack.warm.supervisor import WarmSupervisor

log = logging.getLogger(__name__)


@dataclass
class WorkerState:
    """What a worker's main process hands to the processes of its pool."""

    forking: bool = False  # it has begun to fork the pool
    template_server: socket.socket | None = None
    preloaded: dict[str, Signature | None] = field(default_factory=dict)
    renewal: Renewal | None = None  # of the pool, for the main process itself


STATE = WorkerState()


class WarmCoordinator(BaseCoordinator):
    """Runs a task under a WarmSupervisor; as Airflow does where `WARM_SUPERVISOR` is off or cannot be."""

    def execute_task(self, **start: Any) -> BaseCoordinator.ExecutionResult:
        """Run one task to its end; takes and gives what BaseCoordinator says."""
        if not is_supported():
            return _build_python_coordinator().execute_task(**start)
        process = start_task(start)
        exit_code = process.wait()
        return self.ExecutionResult(exit_code, process.final_state)


@cache
def is_supported() -> bool:
    """Say whether the warm supervisor may be used in this process; the first time, log why not."""
    if os.environ.get("WARM_SUPERVISOR") == "off":
        return False
    differences = find_differences()
    if differences:
        log.warning(
            "Tasks run as Airflow has it, not from warm workers: %s", "; ".join(differences)
        )
    return not differences


def start_task(start: dict[str, Any]) -> WarmSupervisor:
    """Start a task from its file's template; else from this process; else in a new interpreter."""
    from celery_stack.warm.supervisor import WarmSupervisor  # not above: internals may differ

    if changed := find_change(STATE.preloaded):
        _warn_of_change(changed)
        return WarmSupervisor.start_fresh(**start)
    if STATE.template_server:
        bundle = start["bundle_info"]
        request = {
            "bundle": bundle.name,
            "version": bundle.version,
            "path": os.fspath(start["dag_rel_path"]),
        }
        started = WarmSupervisor.start_from_template(request, STATE.template_server, **start)
        if started:
            return started
    return WarmSupervisor.start_forked(**start)


@cache
def _warn_of_change(path: str) -> None:
    log.warning(
        "%s has changed since this worker started: each task imports everything anew, which takes "
        "seconds, until the worker is started again",
        path,
    )

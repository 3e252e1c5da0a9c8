"""Wait for a file without holding a worker slot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.file import FileTrigger
from airflow.sdk import BaseSensorOperator


class FileWait(BaseSensorOperator):
    """Waits until a file is there; the triggerer looks for it, every `poke_interval` seconds.

    Airflow's own FileSensor wants a connection that holds the folder; here the folder is a setting,
    which is read when the task runs. The triggerer must see the same path as the workers.

    Args:
        look: gives the glob of the file to wait for, or None where there is nothing to wait for.
        timeout: seconds after which the wait is over; with `soft_fail` the task is then skipped.
    """

    def __init__(self, *, look: Callable[[], str | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.look = look

    def execute(self, context: Any) -> None:
        """Succeed where there is nothing to wait for, else leave the slot."""
        pattern = self.look()
        if pattern is None:
            return
        self.log.info("Waiting for %s", pattern)
        self.defer(
            trigger=FileTrigger(filepath=pattern, poke_interval=self.poke_interval),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Any, event: Any = None) -> None:
        """Succeed: the file is there."""

"""Pool processes that have run tasks are forked anew while the worker is quiet.

A pool process shares the main process's memory until it writes to it, and a task's supervision writes to 16 MiB,
most of them reference counts: as long as it lives, nobody gives them back. A new one has them shared again.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from celery.concurrency.asynpool import RUN

# A fork costs some hundredths of a second: tasks that follow each other find the processes that the last ones left.
QUIET_S = 5.0
# At each look, one in so many; the others stay ready.
SHARE = 4

# What is looked at in Celery's pool.
FIELDS = ("_active_writes", "_all_inqueues", "_busy_workers", "_pool", "_state", "write_stats")

log = logging.getLogger(__name__)


def renewal_of(pool: Any) -> Renewal | None:
    """Give the renewal of Celery's prefork pool; None, after a warning, for one that is made otherwise."""
    missing = [name for name in FIELDS if not hasattr(pool, name)]
    if missing:
        log.warning("Pool processes are kept as they are: the pool has no %s", ", ".join(missing))
        return None
    return Renewal(pool)


@dataclass
class Renewal:
    """Looks at Celery's pool now and then, from the loop that hands out tasks: nothing is handed out meanwhile."""

    pool: Any
    _unused: dict[int, int] = field(
        default_factory=dict
    )  # by process: tasks its slot had had before it
    _handed_out: int = 0
    _quiet_since: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Replace some idle processes that have run tasks, if no task has been handed out for a while."""
        now, handed_out = time.monotonic(), sum(self.pool.write_stats.values())
        if handed_out != self._handed_out:
            self._handed_out, self._quiet_since = handed_out, now
        used = list(self._used())
        if now - self._quiet_since < QUIET_S or self.pool._state != RUN:
            return
        for process in used[: max(1, len(self.pool._pool) // SHARE)]:
            self._replace(process)

    def _used(self) -> Iterator[Any]:
        """Give the processes that have run tasks, run none now, and are sure to get none before this returns."""
        seen, self._unused = self._unused, {}
        for process in self.pool._pool:
            tasks = self.pool.write_stats[process.index]
            self._unused[process.pid] = seen.get(process.pid, tasks)
            if tasks > self._unused[process.pid] and self._is_idle(process):
                yield process

    def _is_idle(self, process: Any) -> bool:
        ready = process.inqW_fd in self.pool._all_inqueues
        taken = self.pool._busy_workers | self.pool._active_writes
        return ready and process.inqW_fd not in taken and not self.pool._worker_active(process)

    def _replace(self, process: Any) -> None:
        """End a process, which is waiting for work; Celery forks another as soon as it is gone."""
        self.pool._busy_workers.add(process.inqW_fd)  # until then it gets no task
        process._controlled_termination = True  # nothing to be logged as an accident
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

"""The scheduler's sleep between two idle loops ends when something happens.

Stock Airflow sleeps a second (`[scheduler] scheduler_idle_sleep_time`) whenever a loop found nothing to
do, and that second is most of the way from one small task to the next. Here the same sleep, at the
same point and never longer, ends at a wake-up (`celery_stack.wakeups`). Everything else of the
loop, its timers and metrics too, is Airflow's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sized
from multiprocessing.connection import wait
from typing import Any, Protocol

from airflow.jobs import scheduler_job_runner

from celery_stack.wakeups import CHANNEL

log = logging.getLogger(__name__)

# With more tasks than this under way, the workers have enough to do, and looking at once would only take
# CPU from them: it then sleeps so many times as long as it was awake before, up to the stock sleep.
BUSY_TASKS = 8
BUSY_REST = 4
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0


class ListeningConnection(Protocol):
    """A connection of psycopg2, as far as a listener uses it."""

    autocommit: bool
    notifies: list[Any]

    def cursor(self) -> Any: ...
    def fileno(self) -> int: ...
    def poll(self) -> int: ...
    def close(self) -> None: ...


class Listener:
    """Waits for wake-ups; while the database is away it only sleeps, and tries again now and then.

    Args:
        connect: gives a new connection to the metadata database, outside of any transaction.
    """

    def __init__(self, connect: Callable[[], ListeningConnection]) -> None:
        self._connect = connect
        self._connection: ListeningConnection | None = None
        self._retry_s = FIRST_RETRY_S
        self._retry_at = 0.0

    def wait(self, seconds: float) -> bool:
        """Wait `seconds` at most; tell whether a wake-up came, now or since the last call."""
        end = time.monotonic() + seconds
        try:
            if self._connection is not None or time.monotonic() >= self._retry_at:
                return self._hear(seconds)
        except Exception as error:  # whatever it is, the scheduler goes on
            self._lose(error)
        time.sleep(max(0.0, end - time.monotonic()))
        return False

    def close(self) -> None:
        """Give the connection back to the database; the next wait opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _hear(self, seconds: float) -> bool:
        connection = self._connection or self._listen()
        if not wait([connection.fileno()], seconds):
            return False
        connection.poll()
        heard = bool(connection.notifies)
        connection.notifies.clear()
        if heard:
            log.debug("The scheduler is woken.")
        return heard

    def _listen(self) -> ListeningConnection:
        connection = self._connect()
        connection.autocommit = True  # notifications arrive between transactions only
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")
        log.info("The scheduler is woken by events.")
        self._connection, self._retry_s = connection, FIRST_RETRY_S
        return connection

    def _lose(self, error: Exception) -> None:
        if self._retry_s == FIRST_RETRY_S:
            log.warning("The scheduler looks by its clock until it can be woken: %s", error)
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        self.close()


class WakeableTime:
    """The module `time`, except that `sleep` ends at a wake-up.

    Args:
        running: the tasks under way.
    """

    def __init__(self, listener: Listener, running: Sized) -> None:
        self._listener = listener
        self._running = running
        self._awake_since = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep until a wake-up, `seconds` at most."""
        now = time.monotonic()
        rest_s = min(seconds, BUSY_REST * (now - self._awake_since))
        if self._listener.wait(seconds) and len(self._running) > BUSY_TASKS:
            time.sleep(max(0.0, now + rest_s - time.monotonic()))
            self._listener.wait(0)  # the loop that follows sees what these tell of
        self._awake_since = time.monotonic()


def make_wakeable(running: Sized) -> None:
    """Let wake-ups end the scheduler's idle sleep; leave it alone if this Airflow sleeps otherwise."""
    if getattr(scheduler_job_runner, "time", None) is not time:
        log.warning("Expected the scheduler to call time.sleep, found it does not: not woken.")
        return
    listener = Listener(connect_to_metadata)
    vars(scheduler_job_runner)["time"] = WakeableTime(listener, running)


def connect_to_metadata() -> ListeningConnection:
    """Give a connection to the metadata database that no pool hands to anybody else."""
    from airflow.settings import get_engine

    pooled = get_engine().raw_connection()  # type: ignore[no-untyped-call]
    connection: ListeningConnection = pooled.driver_connection
    pooled.detach()
    return connection

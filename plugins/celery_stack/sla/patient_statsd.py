"""A StatsD client that starts without its server: metrics are no reason to judge nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from celery_stack.sla.metrics import Statsd

logger = logging.getLogger(__name__)

RETRY_S = 60.0
"""Between two questions for an address, each of which may take some seconds."""


class PatientStatsd:
    """Sends what it is told; until the server's name leads to an address, it drops it.

    Args:
        connect: gives a client; raises OSError while the server's name is not known.
        clock: gives seconds that only grow.
    """

    def __init__(
        self, connect: Callable[[], Statsd], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._client: Statsd | None = None
        self._retry_at = clock()

    def incr(self, stat: str, count: int = 1, rate: float = 1) -> None:
        if client := self._connected():
            client.incr(stat, count, rate)

    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False) -> None:
        if client := self._connected():
            client.gauge(stat, value, rate, delta)

    def timing(self, stat: str, delta: timedelta, rate: float = 1) -> None:
        if client := self._connected():
            client.timing(stat, delta, rate)

    def _connected(self) -> Statsd | None:
        if self._client is None and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY_S
            try:
                self._client = self._connect()
            except OSError as error:
                logger.warning("No metrics for now, StatsD cannot be reached: %s", error)
        return self._client

"""Metrics of our own, sent as Airflow sends its own: over StatsD, with tags in InfluxDB's form.

Which there are, and what Prometheus makes of them: monitoring/METRICS.md. Where StatsD is off nothing is sent;
where it does not answer nothing waits. Light to import: it does without Airflow.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from functools import cache, partial

from statsd import StatsClient

PREFIX = "airflow"
ASK_AGAIN_S = 60.0
# What would end a name, a tag or a value; the wire takes ASCII alone.
UNSAFE = re.compile(r"[^A-Za-z0-9_.@/+-]")


def count(name: str, number: int = 1, **tags: object) -> None:
    """Add `number` to a counter."""
    if client := _client():
        client.incr(_tagged(name, tags), number)


def gauge(name: str, value: float, **tags: object) -> None:
    """Say what a value is now."""
    if client := _client():
        client.gauge(_tagged(name, tags), value)


def timing(name: str, seconds: float, **tags: object) -> None:
    """Tell how long something took; below zero, for clocks that differ, counts as zero."""
    if client := _client():
        client.timing(_tagged(name, tags), max(0.0, seconds) * 1000)


def connect() -> None:
    """Look up the exporter's address now, so that processes forked from here need not."""
    _client()


def reconnect() -> None:
    """Open a way to the exporter of this process's own: one that dropped what it inherited has lost it."""
    _exporter.cache_clear()
    connect()


def _client() -> StatsClient | None:
    """Give the client of this process; None where metrics are off, or their exporter has no address yet."""
    env = os.environ
    if env.get("AIRFLOW__METRICS__STATSD_ON", "").lower() not in ("true", "t", "1"):
        return None
    host = env.get("AIRFLOW__METRICS__STATSD_HOST", "localhost")  # Airflow's defaults
    port = env.get("AIRFLOW__METRICS__STATSD_PORT", "8125")
    return _exporter(host, port).client()


class _Exporter:
    """An exporter at an address that is asked for, which may take seconds, now and then until there is one."""

    def __init__(self, host: str, port: str) -> None:
        self._connect = partial(StatsClient, host, int(port), prefix=PREFIX)
        self._client: StatsClient | None = None
        self._ask_at = 0.0

    def client(self) -> StatsClient | None:
        """Give the client; None as long as the host's name leads nowhere."""
        if self._client is None and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_AGAIN_S
            with suppress(OSError):
                self._client = self._connect()
        return self._client


_exporter = cache(_Exporter)


def _tagged(name: str, tags: dict[str, object]) -> str:
    return ",".join((name, *(f"{tag}={UNSAFE.sub('_', str(tags[tag]))}" for tag in tags)))

"""Metrics of our own, sent as Airflow sends its own: over StatsD, with tags in InfluxDB's form.

Which there are, and what Prometheus makes of them: monitoring/METRICS.md. Where StatsD is off nothing is sent;
where it does not answer nothing waits. Light to import: it does without Airflow.
"""

from __future__ import annotations

import os
import re
from functools import cache

from statsd import StatsClient

PREFIX = "airflow"
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
    _connect.cache_clear()
    connect()


def _client() -> StatsClient | None:
    """Give the client of this process; None where metrics are off, or their exporter has no address yet."""
    env = os.environ
    if env.get("AIRFLOW__METRICS__STATSD_ON", "").lower() not in ("true", "t", "1"):
        return None
    host = env.get("AIRFLOW__METRICS__STATSD_HOST", "localhost")  # Airflow's defaults
    port = env.get("AIRFLOW__METRICS__STATSD_PORT", "8125")
    try:
        return _connect(host, port)
    except OSError:
        return None  # an exception is not cached: the next sample asks again


@cache
def _connect(host: str, port: str) -> StatsClient:
    return StatsClient(host, int(port), prefix=PREFIX)


def _tagged(name: str, tags: dict[str, object]) -> str:
    return ",".join((name, *(f"{tag}={UNSAFE.sub('_', str(tags[tag]))}" for tag in tags)))

"""Monitors that look at a metadata database when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from celery_stack.sla.monitor import Config, run
from tests.sla.runs import Metadata

DUE = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
TO = ["ml@example.org"]


def config_of(metadata: Metadata, **other: object) -> Config:
    """Give what a monitor is told, `other` instead of what is usual."""
    given: dict[str, object] = {
        "database": metadata.sla_url,
        "broker": "redis://127.0.0.1:1/0",
        "smtp": None,
        "base_url": "http://airflow.example.org",
        "default_to": TO,
        "failure_emails": False,
        "check_s": 0.2,
    }
    return Config(**given | other)  # type: ignore[arg-type]


def verdicts(metadata: Metadata) -> dict[str, str]:
    """Give what has become of each promise, by name."""
    return {record["name"]: record["verdict"] for record in metadata.records()}


@contextmanager
def running_monitors(*configs: Config) -> Iterator[None]:
    """Run monitors in threads, and let them end."""
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(config, stop)) for config in configs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)

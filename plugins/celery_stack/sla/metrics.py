"""What Prometheus learns of SLAs: `sla.met`, `sla.missed`, `sla.lateness`, `sla.undelivered`.

Sent like Airflow's own, with tags in InfluxDB's form (compose/airflow.yaml), where StatsD is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol


class Statsd(Protocol):
    """The part of a StatsD client that is used."""

    def incr(self, stat: str, count: int = 1, rate: float = 1) -> None: ...
    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False) -> None: ...
    def timing(self, stat: str, delta: timedelta, rate: float = 1) -> None: ...


class Metrics:
    """Counts and times by DAG and task; of the whole run, the task is `run`.

    Args:
        client: None where metrics are off.
    """

    def __init__(self, client: Statsd | None = None) -> None:
        self._client = client
        self._told: set[str] = set()

    def judged(self, verdict: str, dag_id: str, task_id: str) -> None:
        """Count a promise that was met or missed."""
        if self._client and verdict in ("met", "missed"):
            self._client.incr(_tagged(f"sla.{verdict}", dag_id, task_id))

    def late(self, dag_id: str, task_id: str, lateness: timedelta) -> None:
        """Tell how long after it was promised something finished."""
        if self._client:
            self._client.timing(_tagged("sla.lateness", dag_id, task_id), lateness)

    def undelivered(self, mails: Mapping[str, int]) -> None:
        """Tell of each DAG how many mails wait after a failed try, or did not reach all; 0 once they are through."""
        if not self._client:
            return
        for dag_id in sorted({*mails, *self._told}):
            self._client.gauge(f"sla.undelivered,dag_id={dag_id}", mails.get(dag_id, 0))
        self._told |= set(mails)


def _tagged(name: str, dag_id: str, task_id: str) -> str:
    return f"{name},dag_id={dag_id},task_id={task_id or 'run'}"

"""What the tests ask Prometheus for: every expression of panels and rules, and every metric that is documented."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from monitoring.metrics_table import exported, mapped
from tests.unit.monitoring.test_dashboards import expressions, rules

STEP_S = 5
# A comparison with a number, which is false as long as all is well: `> 0.8`, `== 1`, `> 8 * 86400`.
THRESHOLD = re.compile(r"\s*(?:[<>]=?|==|!=)\s*\d[\d.]*(?: \* \d+)?")
# What a test shortens: how long a state lasts before an alert fires, how often is looked, how long is waited.
HASTE = {
    "prometheus/rules.yml": [(r"\bfor: \d+[mh]", f"for: {STEP_S}s")],
    "prometheus/prometheus.yml": [
        (r"scrape_interval: 30s", f"scrape_interval: {STEP_S}s\n  evaluation_interval: {STEP_S}s")
    ],
    "alertmanager/alertmanager.yml": [(r"group_wait: 30s", "group_wait: 2s")],
    "statsd/mapping.yml": [(r"\bttl: 1m", "ttl: 20s")],
}


class Prometheus:
    """A running Prometheus, asked for what it saw since it was first asked."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self._since = time.time()

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **params: Any) -> Any:
        """Give the data of an answer of its API."""
        answer = self._http.get(f"/api/v1/{path}", params=params)
        assert answer.is_success, f"{params}: {answer.text}"
        return answer.json()["data"]

    def had_data(self, expression: str) -> bool:
        """Tell whether `expression` had a number at any moment since."""
        span = {"start": self._since, "end": time.time(), "step": STEP_S}
        series = self.get("query_range", query=expression, **span)["result"]
        return any(not math.isnan(float(value)) for one in series for _, value in one["values"])

    def without_data(self, wanted: dict[str, str]) -> list[str]:
        """Name those of `wanted`, by name, whose expressions had none."""
        return [name for name, expression in wanted.items() if not self.had_data(expression)]

    def firing(self) -> set[str]:
        """Name the alerts that fire now."""
        alerts = self.get("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


def hasten(monitoring: Path) -> None:
    """Shorten, in a copy of the folder `monitoring`, what production is patient about."""
    for name, changes in HASTE.items():
        text = (monitoring / name).read_text()
        for pattern, quick in changes:
            text, count = re.subn(pattern, quick, text)
            assert count, f"{name}: expected {pattern}, found none"
        (monitoring / name).write_text(text)


def panel_expressions() -> dict[str, str]:
    """Give each expression of each panel, variables set to all."""
    return {
        f"{board}, {title}: {expression}": re.sub(r"\$\w+", ".*", expression)
        for board, title, expression in expressions()
    }


def rule_expressions() -> dict[str, str]:
    """Give what each rule looks at: a recorded series itself; an alert's watched series, or that it was raised."""
    recorded = {rule["record"]: rule["record"] for rule in rules() if "record" in rule}
    alerts = {one["alert"]: one["expr"] for one in rules() if "alert" in one}
    return recorded | {name: watched_series(name, expr) for name, expr in alerts.items()}


def watched_series(alert: str, expression: str) -> str:
    """Give an alert's expression without its thresholds, and without what is there where nothing else is."""
    bare = THRESHOLD.sub("", expression.partition(" or absent")[0])
    return f'({bare}) or ALERTS{{alertname="{alert}"}}'


def documented_metrics() -> Iterator[str]:
    """Give every name of METRICS.md as Prometheus has it."""
    for one in mapped():
        yield one["name"] + ("_count" if one["match_metric_type"] == "observer" else "")
    for metrics in exported().values():
        yield from metrics

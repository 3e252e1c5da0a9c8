"""Write METRICS.md anew: `python -m monitoring.metrics_table`.

It lists what the StatsD mapping makes, and what else rules and dashboards use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
TABLE = FOLDER / "METRICS.md"
KINDS = {"counter": "counter", "gauge": "gauge", "observer": "histogram"}
HEAD = """# Metrics

Made from [`statsd/mapping.yml`](statsd/mapping.yml) and [`exporter_metrics.yml`](exporter_metrics.yml) by
`python -m monitoring.metrics_table`; a test compares. Of a histogram there are `…_bucket`, `…_sum` and `…_count`.

## Airflow and this stack, over StatsD

| metric | kind | says | StatsD name |
|---|---|---|---|
"""


def mapped() -> list[dict[str, Any]]:
    """Give the mapping's entries that make a metric."""
    mappings = yaml.safe_load((FOLDER / "statsd/mapping.yml").read_text())["mappings"]
    return [one for one in mappings if one.get("action") != "drop"]


def exported() -> dict[str, dict[str, str]]:
    """Give the metrics of other programs, by program."""
    content: dict[str, dict[str, str]] = yaml.safe_load(
        (FOLDER / "exporter_metrics.yml").read_text()
    )
    return content


def render() -> str:
    """Give the content of METRICS.md."""
    lines = "\n".join(_row(one) for one in mapped())
    return f"{HEAD}{lines}\n{''.join(_sections(exported()))}"


def _row(one: Mapping[str, Any]) -> str:
    kind = KINDS[one["match_metric_type"]]
    return f"| `{one['name']}` | {kind} | {one['help']} | `{one['match']}` |"


def _sections(programs: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for program, metrics in programs.items():
        yield f"\n## From {program}\n\n| metric | says |\n|---|---|\n"
        yield from (f"| `{name}` | {meaning} |\n" for name, meaning in metrics.items())


if __name__ == "__main__":
    TABLE.write_text(render())

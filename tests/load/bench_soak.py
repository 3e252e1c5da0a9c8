"""Whether a stack that works for long grows: `python -m tests.load.bench_soak [MINUTES]`.

Starts a stack of its own, runs tasks without a pause, and looks every ten seconds at the memory of
each program with all it started, at what Redis and Postgres hold, and at their connections. Results
of Celery expire after ten minutes here, so that longer runs see them go. Prints each figure at the
beginning, in the middle and at the end, and its slope over the second half, a straight line laid
through it. Exits 1 if a program's memory grows by more than a tenth an hour, or a connection or
result stays for every run.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict

import numpy as np
from redis import Redis

from compose.home import REPO
from tests.benchmarks.bench_stack.usage import memory_by_program
from tests.integration.conftest import RunningStack, running_stack

MINUTES = 30.0
TASKS = 20
LOOK_S = 10
WARM_UP = 0.5
MIB = 2**20
# A line through fewer minutes tells of noise.
LEAST_MINUTES = 15
MOST_GROWTH = 0.1
MOST_GROWTH_MIB = 10
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
Figures = dict[str, list[tuple[float, float]]]


def main(minutes: float) -> int:
    """Soak a stack; give the exit code."""
    settings = {"RESULT_EXPIRES_S": "600", "PARALLELISM": "32"}
    with running_stack(
        REPO / ".stack-soak", "worker=2", dags_of_tests=REPO / "tests/load/dags", **settings
    ) as stack:
        stack.client.wait_for_dag("many", deadline_s=90)
        figures, runs = soak(stack, minutes * 60)
    sys.stdout.write(f"{runs} runs of {TASKS} tasks in {minutes:g} minutes\n")
    growing = [name for name, seen in figures.items() if report(name, seen)]
    if minutes < LEAST_MINUTES:
        sys.stdout.write(f"Slopes of less than {LEAST_MINUTES} minutes say little.\n")
        return 0
    sys.stdout.write(f"growing: {', '.join(growing) or 'nothing'}\n")
    return 1 if growing else 0


def soak(stack: RunningStack, seconds: float) -> tuple[Figures, int]:
    """Run tasks for so long; give what was seen of each figure, with its times, and how many runs ended."""
    figures: Figures = defaultdict(list)
    begin, runs, run_id = time.monotonic(), 0, ""
    while (now := time.monotonic() - begin) < seconds:
        if not run_id or stack.client.run_state("many", run_id) in ("success", "failed"):
            runs += bool(run_id)
            run_id = stack.client.trigger("many", {"tasks": TASKS})
        if not figures or now - figures["Redis, MiB"][-1][0] >= LOOK_S:
            for name, value in look(stack).items():
                figures[name].append((now, value))
        time.sleep(0.5)
    return figures, runs


def look(stack: RunningStack) -> dict[str, float]:
    figures = {f"{name}, MiB": mib for name, mib in memory_by_program(stack.home).items()}
    with Redis.from_url(stack.broker_url) as redis:
        figures["Redis, MiB"] = redis.info("memory")["used_memory"] / MIB
        figures["connections to Redis"] = redis.info("clients")["connected_clients"]
        figures["Celery's results"] = redis.info("keyspace").get("db1", {}).get("keys", 0)
    size = stack.metadata("SELECT pg_database_size(current_database()) AS size")[0].size
    figures["metadata, MiB"] = size / MIB
    figures["connections to Postgres"] = stack.metadata(CONNECTIONS)[0].count
    return figures


def report(name: str, seen: list[tuple[float, float]]) -> bool:
    """Print a figure's line; tell whether it grows."""
    times, values = np.array(seen).T
    late = times >= times[-1] * WARM_UP
    slope = np.polyfit(times[late], values[late], 1)[0] * 3600 if late.sum() > 1 else 0.0
    first, middle, last = values[0], values[len(values) // 2], values[-1]
    line = f"{name:32} {first:8.1f} {middle:8.1f} {last:8.1f}   {slope:+8.1f} an hour"
    sys.stdout.write(f"{line}\n")
    if name == "metadata, MiB":  # grows with every run until METADATA_RETENTION_DAYS
        return False
    return bool(slope > max(MOST_GROWTH * values[late].mean(), MOST_GROWTH_MIB))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES))

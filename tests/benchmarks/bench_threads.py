"""What it costs when training tasks do not share the cores: limited as our workers do it, against no limit.

    python -m tests.benchmarks.bench_threads [ROUNDS]

Two slots train the four candidates of the pipeline, two at a time, each in a process of its own.
*Limited* is how a training worker runs them: one thread for joblib, BLAS and OpenMP each. *Naive* is
what libraries do when nobody says: a thread per core for each, in every slot, and `n_jobs=-1`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table

from compose.commands import THREAD_LIMITS
from ml.settings import CANDIDATE_NAMES

SLOTS = 2
ROUNDS = 3
LOOK_S = 0.05

TRAIN = """
import sys
from contextlib import contextmanager
from joblib import parallel_config
import ml.train
from ml.load import reference_table

@contextmanager
def unbounded(threads):
    with parallel_config(n_jobs=-1):
        yield

if sys.argv[1] == "naive":
    ml.train.bounded_threads = unbounded
ml.train.train_candidate(sys.argv[2], reference_table(), seed=42, folds=5, repeats=2)
"""


@dataclass(frozen=True)
class Training:
    """Four candidates trained: seconds it took, and the most threads that wanted to run at once."""

    seconds: float
    threads: int


def train(way: str) -> Training:
    """Train every candidate, `SLOTS` at a time, limited or naively."""
    env = {name: value for name, value in os.environ.items() if name not in THREAD_LIMITS}
    if way == "limited":
        env |= dict.fromkeys(THREAD_LIMITS, "1")
    waiting, running, most, began = list(CANDIDATE_NAMES), [], 0, time.monotonic()
    while waiting or running:
        while waiting and len(running) < SLOTS:
            command = [sys.executable, "-c", TRAIN, way, waiting.pop(0)]
            running.append(psutil.Popen(command, env=env, stderr=subprocess.DEVNULL))
        time.sleep(LOOK_S)
        most = max(most, sum(_runnable(process) for process in running))
        assert all(process.poll() in (None, 0) for process in running), "a training failed"
        running = [process for process in running if process.poll() is None]
    return Training(time.monotonic() - began, most)


def _runnable(process: psutil.Process) -> int:
    """Count the threads of a process and its descendants that run or wait for a core."""
    found = 0
    with contextlib.suppress(psutil.Error, OSError):
        for one in (process, *process.children(recursive=True)):
            for thread in one.threads():
                with (
                    contextlib.suppress(OSError),
                    open(f"/proc/{one.pid}/task/{thread.id}/stat") as stat,
                ):
                    found += stat.read().rpartition(")")[2].split()[0] == "R"
    return found


def main() -> None:
    """Measure both in turn, and print medians, ranges and the ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    found: dict[str, list[Training]] = {"limited": [], "naive": []}
    for number in range(rounds):
        for way in sorted(found, reverse=bool(number % 2)):
            found[way].append(train(way))
    best = median(one.seconds for one in found["limited"])
    table = Table(title=f"{SLOTS} training slots on {os.cpu_count()} cores, {rounds} rounds")
    for column in ("", "seconds, median (least – most)", "× limited", "threads at once, most"):
        table.add_column(column)
    for way, trainings in found.items():
        seconds = [one.seconds for one in trainings]
        middle = median(seconds)
        spread = f"{middle:.1f} ({min(seconds):.1f} – {max(seconds):.1f})"
        table.add_row(way, spread, f"{middle / best:.2f}", str(max(t.threads for t in trainings)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

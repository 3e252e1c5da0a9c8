"""What the sessions of a benchmark say together: medians, ranges, ratios to stock."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from compose.home import REPO
from tests.benchmarks.bench_stack.profiles import LEVERS, OURS, OURS_STOCK_SLOTS, STOCK, without
from tests.benchmarks.bench_stack.session import Session
from tests.benchmarks.bench_stack.workloads import Sizes

PACKAGES = ("apache-airflow", "apache-airflow-providers-celery", "celery", "kombu", "redis")


@dataclass(frozen=True)
class Figure:
    """A figure of the benchmark: how it is shown, and whether more of it is better."""

    key: str
    label: str
    unit: str
    more_is_better: bool = False
    ours: str = OURS.name  # the profile that stands for ours
    source: str = ""  # the session's figure, where its key is another

    def values(self, sessions: Sequence[Session], profile: str) -> list[float]:
        """Give the figure in every session of `profile` that has it."""
        key = self.source or self.key
        return [one.figures[key] for one in sessions if one.profile == profile and key in one.figures]  # fmt: skip


LEVER_FIGURES = (
    Figure("A_throughput", "A: independent tasks", "tasks/s", more_is_better=True),
    Figure("B_hop_seconds", "B: a further task in a chain", "s"),
    Figure("C_latency_seconds", "C: one task, trigger to end of run", "s"),
    Figure("D_throughput", "D: tasks of a file with heavy imports", "tasks/s", more_is_better=True),
    Figure("cpu_per_task", "CPU of the whole stack per task of A", "s"),
)
FIGURES = (
    *LEVER_FIGURES,
    Figure("slots_held", "tasks of A that held their slot ≥ 1 s", "tasks"),
    Figure("slot_memory", "worker, per slot, 16 slots each", "MiB", ours=OURS_STOCK_SLOTS.name),
    Figure("slot_memory_as_shipped", "worker, per slot, as shipped", "MiB", source="slot_memory"),
    Figure("worker_memory_total", "worker, as shipped", "MiB"),
    Figure("stack_memory", "whole stack, as shipped", "MiB"),
    Figure("stack_memory_same_services", "whole stack, services of stock", "MiB"),
    Figure("idle_cpu", "idle CPU of the whole stack", "cores"),
)


def summarise(values: Sequence[float]) -> dict[str, float] | None:
    """Give median, range and number of `values`; None where there are none."""
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio(figure: Figure, sessions: Sequence[Session]) -> float | None:
    """Give ours ÷ stock by their medians; None where either is missing or stock's is 0."""
    ours, stock = figure.values(sessions, figure.ours), figure.values(sessions, STOCK.name)
    if not ours or not stock or not median(stock):
        return None
    return median(ours) / median(stock)


def improvement(figure: Figure, ours: float, other: float) -> float:
    """Give how many times better `ours` is, whether the figure should be high or low."""
    return ours / other if figure.more_is_better else other / ours


def contributions(sessions: Sequence[Session]) -> dict[str, dict[str, float]]:
    """Give, for each lever and figure, how many times better ours is with it than without."""
    found: dict[str, dict[str, float]] = {}
    for lever in LEVERS:
        for figure in LEVER_FIGURES:
            on = figure.values(sessions, OURS.name)
            off = figure.values(sessions, without(lever).name)
            if on and off:
                better = improvement(figure, median(on), median(off))
                found.setdefault(lever, {})[figure.key] = better
    return found


def build(sessions: Sequence[Session], sizes: Sizes) -> dict[str, Any]:
    """Give everything that is written down, ready for JSON."""
    profiles = dict.fromkeys(session.profile for session in sessions)
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "machine": describe_machine(),
        "versions": _versions(sessions),
        "sizes": asdict(sizes),
        "ratios": {figure.key: ratio(figure, sessions) for figure in FIGURES},
        "levers": contributions(sessions),
        "profiles": {name: _profile(name, sessions) for name in profiles},
        "other_cores": summarise(
            [s.details["others_during_A"] for s in sessions if "others_during_A" in s.details]
        ),
        "sessions": [asdict(session) for session in sessions],
    }
    rounded: dict[str, Any] = round_floats(results)
    return rounded


def _profile(name: str, sessions: Sequence[Session]) -> dict[str, Any]:
    """Give median and range of each figure of one profile."""
    own = [session for session in sessions if session.profile == name]
    return {key: summarise([one.figures[key] for one in own]) for key in own[0].figures}


def round_floats(value: Any) -> Any:
    """Give `value` with each float in it cut to four significant digits."""
    if isinstance(value, dict):
        return {key: round_floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [round_floats(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def describe_machine() -> dict[str, Any]:
    """Give what the figures depend on: cores, memory, processor, kernel."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions(sessions: Sequence[Session]) -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    servers = next((s.details["servers"] for s in sessions if "servers" in s.details), {})
    servers = {f"{name} server": version for name, version in servers.items()}
    return {"python": platform.python_version(), **packages, **servers}


def _commit() -> str:
    command = ["git", "-C", str(REPO), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

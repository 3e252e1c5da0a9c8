"""Every figure of one stack, from its start to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import redis

from compose.consumers import ask_for_workers
from compose.secret_files import read_secret
from tests.benchmarks.bench_stack.profiles import Profile
from tests.benchmarks.bench_stack.stack import BenchStack, running
from tests.benchmarks.bench_stack.usage import (
    Usage,
    between,
    cpu_by_program,
    memory_by_program,
    read,
    total,
)
from tests.benchmarks.bench_stack.workloads import Sizes, run, run_idle, wait_until_released

DAG_DEADLINE_S = 90
LOOKS = 3
NOT_IN_STOCK = ("flower", "sla", "worker-cpu-train")


@dataclass(frozen=True)
class Session:
    """What one stack showed: its figures by key, and what they were made of."""

    profile: str
    round: int
    figures: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def measure(profile: Profile, round_: int, sizes: Sizes, *, rest: bool = True) -> Session:
    """Start a stack of `profile`, measure it, stop it.

    Args:
        rest: measure it idle too, and its memory.
    """
    began = time.monotonic()
    with running(profile, sizes.variables()) as stack:
        started = time.monotonic()
        _warm_up(stack)
        figures, details = _load(stack, sizes)
        if rest:
            idle, memory = _rest(stack, sizes)
            figures |= {"idle_cpu": idle.stack_cores} | _memory_figures(memory, _slots(stack))
            details |= {"memory_mib": memory, "others_while_idle": idle.other_cores}
        details |= {"cpu_meter": stack.meter.name, "servers": _server_versions(stack)}
    details |= {"start_s": started - began, "session_s": time.monotonic() - began}
    return Session(profile.name, round_, figures, details)


def measure_scale_out(profile: Profile, sizes: Sizes) -> Session:
    """Give the seconds that the sleepers take on 4, 2 and 1 workers of one stack."""
    taken = {}
    with running(profile, sizes.variables()) as stack:
        _warm_up(stack)
        for workers in (4, 2, 1):
            stack.stop_workers(above=workers)
            sleepers = run(stack, "bench_sleepers")
            wait_until_released(stack, sleepers.tasks)
            taken[workers] = sleepers.working_s
    shares = {f"workers_{n}": taken[1] / (n * seconds) for n, seconds in taken.items()}
    return Session(profile.name, 1, shares, {"seconds": taken})


def _warm_up(stack: BenchStack) -> None:
    """Wait for the DAGs, then let every process import what it imports at its first task."""
    for name in ("warm_up", "independent", "chain", "single", "heavy", "sleepers"):
        stack.client.wait_for_dag(f"bench_{name}", deadline_s=DAG_DEADLINE_S)
    runs = [run(stack, dag_id) for dag_id in ("bench_warm_up", "bench_single")]
    wait_until_released(stack, [task for done in runs for task in done.tasks])


def _load(stack: BenchStack, sizes: Sizes) -> tuple[dict[str, float], dict[str, Any]]:
    """Run A, B, C and D; what A uses counts until Celery is done with the last of its tasks."""
    start, programs_start = read(stack.meter), cpu_by_program(stack.home)
    independent = run(stack, "bench_independent")
    held = wait_until_released(stack, independent.tasks)
    used, programs_end = between(start, read(stack.meter)), cpu_by_program(stack.home)
    singles = [run_idle(stack, "bench_single").seconds for _ in range(sizes.singles)]
    chain = run_idle(stack, "bench_chain")
    heavy = run_idle(stack, "bench_heavy")
    wait_until_released(stack, heavy.tasks)
    figures = {
        "A_throughput": independent.tasks_per_s,
        "B_hop_seconds": chain.hop_s,
        "C_latency_seconds": median(singles),
        "D_throughput": heavy.tasks_per_s,
        "cpu_per_task": used.stack_s / len(independent.tasks),
        "slots_held": held,
    }
    programs = {name: programs_end[name] - began for name, began in programs_start.items()}
    details = {"singles_s": singles, "others_during_A": used.other_cores, "cpu_of_A_s": programs}
    return figures, details


def _rest(stack: BenchStack, sizes: Sizes) -> tuple[Usage, dict[str, float]]:
    """Give the CPU of the idle stack, and each program's memory as the median of three looks.

    A look may fall on the moment at which the dag-processor reads a file. What a look costs is the
    CPU of this process, which does not count.
    """
    start, looks = read(stack.meter), []
    for _ in range(LOOKS):
        time.sleep(sizes.idle_s / LOOKS)
        looks.append(memory_by_program(stack.home))
    memory = {name: median(look.get(name, 0.0) for look in looks) for name in looks[0]}
    return between(start, read(stack.meter)), memory


def _memory_figures(memory: dict[str, float], slots: int) -> dict[str, float]:
    whole, worker = sum(memory.values()), total(memory, ("worker",))
    return {
        "worker_memory_total": worker,
        "slot_memory": worker / slots,
        "stack_memory": whole,
        "stack_memory_same_services": whole - total(memory, NOT_IN_STOCK),
    }


def _slots(stack: BenchStack) -> int:
    """Ask the worker of `default` how many tasks it runs at once."""
    broker_url = read_secret(stack.home.secrets / "control/broker_url")
    return sum(one.slots for one in ask_for_workers(broker_url) if "default" in one.queues)


def _server_versions(stack: BenchStack) -> dict[str, str]:
    url = read_secret(stack.home.secrets / "control/broker_url")
    with redis.Redis.from_url(url) as client:
        redis_version = str(client.info("server")["redis_version"])
    postgres = stack.rows("SHOW server_version")[0].server_version
    return {"postgres": postgres.split()[0], "redis": redis_version}

"""Measure, print the tables, and write figures and plot to `.bench`: `make bench`."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from compose.home import REPO
from tests.benchmarks.bench_stack import stock
from tests.benchmarks.bench_stack.profiles import (
    LEVERS,
    OURS,
    OURS_STOCK_SLOTS,
    SCALED,
    STOCK,
    without,
)
from tests.benchmarks.bench_stack.report import draw, print_tables
from tests.benchmarks.bench_stack.results import FIGURES, build
from tests.benchmarks.bench_stack.session import Session, measure, measure_scale_out
from tests.benchmarks.bench_stack.workloads import QUICK, Sizes

OUTPUT = REPO / ".bench"
RECORD = REPO / "tests" / "benchmarks"
FILES = ("RESULTS.json", "RESULTS.svg")

Measurement = Callable[[], Session]


def main() -> None:
    """Run the benchmark that the command line asks for."""
    arguments = _parse()
    for name in (signal.SIGTERM, signal.SIGHUP):  # so that the running stack is stopped
        signal.signal(name, signal.default_int_handler)
    sizes = QUICK if arguments.quick else Sizes()
    OUTPUT.mkdir(exist_ok=True)
    stock.make_interpreter()
    results = run(schedule(sizes, arguments), sizes)
    print_tables(results, Console(width=100))
    if arguments.quick:
        check_sane(results)
    if arguments.record:
        for name in FILES:
            shutil.copy(OUTPUT / name, RECORD / name)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_stack")
    parser.add_argument("--rounds", type=int, default=5, help="stacks of each profile")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one small round")
    parser.add_argument("--record", action="store_true", help="replace the committed results")
    arguments = parser.parse_args()
    if arguments.quick and arguments.record:
        parser.error("expected a full run to record, got --quick: leave one of the two out")
    return arguments


def schedule(sizes: Sizes, arguments: argparse.Namespace) -> Iterator[Measurement]:
    """Give the measurements in order: rounds of stock and ours in turn, then the single ones."""
    rounds = 1 if arguments.quick else arguments.rounds
    for number in range(1, rounds + 1):
        for profile in (STOCK, OURS) if number % 2 else (OURS, STOCK):
            yield partial(measure, profile, number, sizes)
    if arguments.quick:
        return
    yield partial(measure, OURS_STOCK_SLOTS, 1, sizes)
    for lever in LEVERS:
        yield partial(measure, without(lever), 1, sizes, rest=False)
    for profile in SCALED:
        yield partial(measure_scale_out, profile, sizes)


def run(measurements: Iterator[Measurement], sizes: Sizes) -> dict[str, Any]:
    """Measure one after the other; results are written after each, so that a fault costs one."""
    sessions: list[Session] = []
    results: dict[str, Any] = {}
    for take in measurements:
        session = take()
        sessions.append(session)
        _show(session)
        results = build(sessions, sizes)
        _write(results, OUTPUT)
    return results


def _show(session: Session) -> None:
    figures = ", ".join(f"{key} {value:.3g}" for key, value in session.figures.items())
    clock = time.strftime("%H:%M:%S")
    sys.stdout.write(f"{clock} {session.profile}, round {session.round}: {figures}\n")
    sys.stdout.flush()


def _write(results: dict[str, Any], folder: Path) -> None:
    data, plot = (folder / name for name in FILES)
    data.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, plot)


def check_sane(results: dict[str, Any]) -> None:
    """Fail unless both profiles have every figure, none of them is nonsense, and all keys are there.

    That every task succeeded is checked as they run; how fast is no question of this check.
    """
    assert set(results["ratios"]) == {figure.key for figure in FIGURES}
    for name in (STOCK.name, OURS.name):
        figures = results["profiles"][name]
        for figure in FIGURES:
            value = figures[figure.source or figure.key]["median"]
            assert value > 0 or figure.key == "slots_held", f"{name}: {figure.key} is {value}"
    for key in ("date", "commit", "machine", "versions", "levers", "sessions"):
        assert key in results, key


if __name__ == "__main__":
    main()

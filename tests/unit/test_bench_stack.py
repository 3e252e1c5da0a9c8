"""What `make bench` makes of its measurements."""

from __future__ import annotations

import io
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from compose.home import StackHome
from compose.programs import Plan
from compose.secret_files import Addresses, derive_secrets, make_secrets
from tests.benchmarks.bench_stack.__main__ import check_sane, main, schedule
from tests.benchmarks.bench_stack.profiles import LEVERS, OURS, OURS_STOCK_SLOTS, STOCK, without
from tests.benchmarks.bench_stack.report import bars, draw, print_tables
from tests.benchmarks.bench_stack.results import (
    FIGURES,
    build,
    contributions,
    ratio,
    round_floats,
    summarise,
)
from tests.benchmarks.bench_stack.session import Session
from tests.benchmarks.bench_stack.stack import ended_results
from tests.benchmarks.bench_stack.stock import stock_programs
from tests.benchmarks.bench_stack.usage import group_folders, total, used_seconds
from tests.benchmarks.bench_stack.workloads import QUICK, Run, Sizes, slots_held

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BY_KEY = {figure.key: figure for figure in FIGURES}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def session(profile: str, value: float, **figures: float) -> Session:
    """Give a session whose figures are all `value`, but those named."""
    keys = {figure.source or figure.key for figure in FIGURES}
    details = {"others_during_A": 0.5, "cpu_meter": "cgroup v2", "servers": {"redis": "7.2"}}
    return Session(profile, 1, dict.fromkeys(keys, value) | figures, details)


@pytest.fixture
def sessions() -> list[Session]:
    """A whole benchmark: ours is twice stock in each figure, and without a lever only 1.5 times."""
    rounds = [session(STOCK.name, 1.0), session(OURS.name, 2.0)] * 2
    off = [session(without(lever).name, 1.5) for lever in LEVERS]
    scaled = [
        Session(f"{name}, scale-out", 1, {"workers_1": 1.0, "workers_2": 0.9, "workers_4": 0.8})
        for name in ("stock", "ours")
    ]
    return [*rounds, session(OURS_STOCK_SLOTS.name, 3.0), *off, *scaled]


def test_ratio_divides_the_medians() -> None:
    """One disturbed round does not move the ratio."""
    measured = [session(STOCK.name, value) for value in (1.0, 2.0, 50.0)]
    measured += [session(OURS.name, value) for value in (3.0, 4.0, 0.1)]
    assert ratio(BY_KEY["A_throughput"], measured) == 3.0 / 2.0


def test_slot_memory_is_compared_at_equal_slots(sessions: list[Session]) -> None:
    """Ours counts with the slots of stock, not with those it ships with."""
    assert ratio(BY_KEY["slot_memory"], sessions) == 3.0
    assert ratio(BY_KEY["slot_memory_as_shipped"], sessions) == 2.0


def test_ratio_to_nothing_is_none() -> None:
    """Where stock shows 0, or one of the two was not measured, there is no ratio."""
    ours = session(OURS.name, 2.0)
    assert ratio(BY_KEY["slots_held"], [session(STOCK.name, 1.0, slots_held=0), ours]) is None
    assert ratio(BY_KEY["A_throughput"], [ours]) is None


def test_lever_counts_by_how_much_better_it_makes_a_figure(sessions: list[Session]) -> None:
    """More tasks per second are better; more seconds are worse."""
    found = contributions(sessions)
    assert list(found) == list(LEVERS)
    for better in found.values():
        assert better["A_throughput"] == pytest.approx(2.0 / 1.5)
        assert better["B_hop_seconds"] == pytest.approx(1.5 / 2.0)


def test_summary_gives_median_and_range() -> None:
    """The range is what was seen, not an estimate."""
    assert summarise([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}
    assert summarise([]) is None


def test_floats_keep_four_digits() -> None:
    """Digits that no measurement carries are not written down."""
    assert round_floats({"a": [0.123456, 1], "b": "1.23456"}) == {"a": [0.1235, 1], "b": "1.23456"}


def test_results_have_every_key_and_pass_the_check(sessions: list[Session]) -> None:
    """What is written down names a ratio for each figure, machine, versions and raw figures."""
    results = build(sessions, Sizes())
    check_sane(results)
    assert results["ratios"]["cpu_per_task"] == 2.0
    assert results["profiles"]["stock"]["A_throughput"]["n"] == 2
    assert len(results["sessions"]) == len(sessions)


def test_check_refuses_a_figure_that_cannot_be() -> None:
    """A throughput of 0 is no measurement."""
    measured = [session(STOCK.name, 1.0), session(OURS.name, 1.0, D_throughput=0.0)]
    with pytest.raises(AssertionError, match="ours: D_throughput is 0"):
        check_sane(build(measured, QUICK))


def test_tables_show_ratios_levers_and_what_disturbed(sessions: list[Session]) -> None:
    """A reader sees each figure with its ratio, each lever, and that the machine was not quiet."""
    console = Console(width=120, file=io.StringIO())
    print_tables(build(sessions, Sizes()), console)
    text = console.file.getvalue()
    for expected in (*(figure.label for figure in FIGURES), *LEVERS, "2.00", "80%", "others used"):
        assert expected in text


def test_plot_leaves_out_what_has_no_ratio(sessions: list[Session], tmp_path: Path) -> None:
    """A 0 has no place on a logarithmic axis; the rest is drawn, the same each time."""
    measured = [one for one in sessions if one.profile != OURS.name]
    measured.append(session(OURS.name, 2.0, slots_held=0))
    results = build(measured, Sizes())
    labels = [bar.label for bar in bars(results)]
    assert labels == [figure.label for figure in FIGURES if figure.key != "slots_held"]
    for name in ("one.svg", "two.svg"):
        draw(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_rounds_alternate_who_goes_first() -> None:
    """What warms up or slows down over the half hour meets both profiles alike."""
    arguments = Namespace(quick=False, rounds=3)
    order = [take.args[0].name for take in measurements(arguments)]
    assert order[:6] == ["stock", "ours", "ours", "stock", "stock", "ours"]
    assert order[6:] == [
        OURS_STOCK_SLOTS.name,
        *(without(lever).name for lever in LEVERS),
        "stock, scale-out",
        "ours, scale-out",
    ]


def measurements(arguments: Namespace) -> Iterator[Any]:
    return schedule(Sizes(), arguments)


def test_smoke_run_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Small sizes never replace the committed results."""
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--record"])
    with pytest.raises(SystemExit):
        main()
    assert "leave one of the two out" in capsys.readouterr().err


def test_run_is_timed_by_the_metadata() -> None:
    """Throughput counts from the trigger, a hop from task to task, work from the first start."""
    tasks = [
        SimpleNamespace(start_date=at(start), end_date=at(end))
        for start, end in ((2, 3), (3.5, 4), (4.5, 6))
    ]
    measured = Run(SimpleNamespace(queued_at=at(0), end_date=at(7)), tasks)
    assert measured.seconds == 7
    assert measured.tasks_per_s == 3 / 6
    assert measured.hop_s == (6 - 3) / 2
    assert measured.working_s == 4


def test_slot_is_held_from_a_second_on() -> None:
    """A slot that Celery frees at once is not held."""
    ended = {"a": at(0), "b": at(0), "c": at(0)}
    done = {"a": at(0.9), "b": at(1.0), "c": at(4.5)}
    assert slots_held(ended, done) == 2


def test_celery_results_of_running_tasks_are_left_out() -> None:
    """A task that has started has a result without an end."""
    found = ended_results(
        [
            b'{"task_id": "a", "status": "SUCCESS", "date_done": "2026-01-01T12:00:00+00:00"}',
            b'{"task_id": "b", "status": "STARTED", "date_done": null}',
        ]
    )
    assert found == {"a": NOON}


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        ("0::/user/one\n", "cgroup2 /c cgroup2 rw 0 0\n", ["/c/user/one"]),
        ("3:cpu,cpuacct:/a\n", "cgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\n", ["/c/cpu/a"]),
        (
            "2:cpuacct:/\n1:cpu:/\n0::/\n",
            "cgroup /c/cpu cgroup rw,cpu 0 0\ncgroup /c/acct cgroup rw,cpuacct 0 0\n"
            "cgroup2 /c/unified cgroup2 rw 0 0\n",
            ["/c/unified", "/c/acct"],
        ),
        ("", "proc /proc proc rw 0 0\n", []),
    ],
)
def test_control_groups_are_found_in_every_layout(
    groups: str, mounts: str, expected: list[str]
) -> None:
    """Unified, legacy and both side by side, where the unified one comes first."""
    assert group_folders(groups, mounts) == [Path(path) for path in expected]


def test_cpu_seconds_are_read_from_a_control_group() -> None:
    """The kernel counts in microseconds."""
    assert used_seconds("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n") == 2.5


ORPHAN = """
import os, subprocess, sys, time
from tests.benchmarks.bench_stack import usage
meter = usage.{meter}()
before = meter.seconds()
burn = "import time\\nwhile time.process_time() < 0.3: pass"
middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
pipe = subprocess.Popen(
    [sys.executable, "-c", middle, burn], stdout=subprocess.PIPE, preexec_fn=meter.enter
)
pipe.stdout.read()  # ends when the last process that holds it has ended
pipe.wait()
used = meter.seconds() - before
meter.close()
assert used >= 0.3, used
"""


@pytest.mark.parametrize("meter", ["make_meter", "ProcessTree"])
def test_meter_counts_an_orphan_that_has_ended(meter: str) -> None:
    """CPU of a process whose parent ended before it, and which has itself ended, is not lost."""
    script = ORPHAN.format(meter=meter)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_memory_is_added_up_by_program() -> None:
    """Copies of a worker pool are numbered; another pool's name only begins alike."""
    memory = {"worker-1": 1.0, "worker-2": 2.0, "worker-cpu-train-1": 4.0, "flower": 8.0}
    assert total(memory, ("worker",)) == 3.0
    assert total(memory, ("flower", "worker-cpu-train")) == 12.0


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    ports = {"postgres": 1, "redis": 2, "api": 3}
    settings = Settings.from_env({"DAGS_FOLDER": str(tmp_path)})
    make_secrets(tmp_path / "secrets")
    derive_secrets(tmp_path / "secrets", Addresses("127.0.0.1", 1, "127.0.0.1", 2), settings)
    return Plan(StackHome(tmp_path), {}, settings, load_declarations({}), ports, {})


def test_stock_runs_nothing_of_ours(plan: Plan) -> None:
    """No setting, command or interpreter of the stock stack leads to this project's packages."""
    for program in stock_programs(plan):
        words = [*program.command, *program.env.values()]
        assert not [word for word in words if "celery_stack" in word or "compose" in word]
        assert program.command[0] != sys.executable


def test_stock_is_the_official_configuration(plan: Plan) -> None:
    """The provider's executor, results in Postgres, Redis as broker, sixteen slots."""
    env = stock_programs(plan)[0].env
    assert env["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert env["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+postgresql://")
    assert env["AIRFLOW__CELERY__BROKER_URL"].startswith("redis://")
    assert env["AIRFLOW__CELERY__WORKER_CONCURRENCY"] == "16"

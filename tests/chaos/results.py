"""The table of faults: a row per fault, replaced when it is tried again."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from compose.home import REPO
from tests.chaos.faults import FAULTS

FILE = Path(__file__).with_name("RESULTS.md")
COLUMNS = (
    "fault",
    "name",
    "tasks",
    "lost",
    "effects doubled",
    "executions beyond one",
    "noticed, s",
    "work goes on, s",
    "all begun again, s",
    "run ended",
    "tried",
)
HEAD = """# Faults, as tried

Written by `make chaos`; a row is from the last time its fault was tried. The load: one run of
[`mixed`](dags/mixed.py), half of its tasks do nothing, 17 % sleep for 10 s, 8 % train, 25 % write to the
warehouse; four workers of four slots, one that trains, settings as they come. The fault comes once 15 % are done.

- **lost**: tasks whose work never came to its end, or rows of the warehouse that are missing.
- **effects doubled**: rows of the warehouse that were changed more than once, as a trigger of the database counts.
- **executions beyond one**: times that a task's work was begun again, as the tasks themselves write down outside Airflow.
- **noticed**: from the fault until Docker started a container anew or a try was given up.
- **work goes on**: from the end of the fault (a kill's is its begin) until a task next began.
- **all begun again**: from the fault until the last task that it cut off had begun again.
"""


@dataclass(frozen=True)
class Row:
    """What a fault did. Times are seconds; None where there was nothing to wait for."""

    name: str
    tasks: int
    lost: int
    doubled: int
    beyond_one: int
    noticed_s: float | None
    goes_on_s: float | None
    again_s: float | None
    state: str

    def cells(self, commit: str) -> list[str]:
        times = (self.noticed_s, self.goes_on_s, self.again_s)
        counts = (self.tasks, self.lost, self.doubled, self.beyond_one)
        return [
            FAULTS[self.name].what,
            f"`{self.name}`",
            *map(str, counts),
            *("–" if t is None else f"{t:.0f}" for t in times),
            self.state,
            f"{datetime.now(UTC):%Y-%m-%d}, {commit}, {machine()}",
        ]


def line_of(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_row(row: Row, commit: str) -> None:
    """Put the row into the file."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    known = {line.split("|")[2].strip(" `"): line for line in lines if line.startswith("| ")}
    known[row.name] = line_of(row.cells(commit))
    table = [line_of(COLUMNS), "|---" * len(COLUMNS) + "|"]
    table += [known.get(name) or untried(name) for name in FAULTS]
    FILE.write_text("\n".join([HEAD, *table, ""]))


def untried(name: str) -> str:
    """Give the line of a fault that nobody has tried."""
    blank = ["–"] * (len(COLUMNS) - 3)
    return line_of([FAULTS[name].what, f"`{name}`", *blank, "not tried yet"])


def machine() -> str:
    """Describe this machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}"


def tried_commit() -> str:
    """Name the commit of the checkout that is tried."""
    words = ["git", "-C", str(REPO), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"

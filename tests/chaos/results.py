"""The table of faults: a row per fault, replaced when it is tried again."""

from __future__ import annotations

import os
import subprocess
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
    "doubled effects",
    "executions beyond one",
    "noticed after, s",
    "work goes on after, s",
    "cut work begun again after, s",
    "run ended",
    "date, commit",
)
HEAD = """# Faults, as tried

Written by `make chaos`; each row is from the last time its fault was tried.
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

    def cells(self) -> list[str]:
        times = (self.noticed_s, self.goes_on_s, self.again_s)
        counts = (self.tasks, self.lost, self.doubled, self.beyond_one)
        tried = f"{datetime.now(UTC):%Y-%m-%d %H:%M}, {_commit()}"
        return [
            FAULTS[self.name].what,
            f"`{self.name}`",
            *map(str, counts),
            *("–" if t is None else f"{t:.0f}" for t in times),
            self.state,
            tried,
        ]


def line_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_row(row: Row) -> str:
    """Put the row into the file; give its line."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    known = {line.split("|")[2].strip(" `"): line for line in lines if line.startswith("| ")}
    known[row.name] = line_of(row.cells())
    table = [line_of(list(COLUMNS)), "|---" * len(COLUMNS) + "|"]
    table += [known[name] for name in FAULTS if name in known]
    FILE.write_text("\n".join([HEAD, *table, ""]))
    return known[row.name]


def _commit() -> str:
    words = ["git", "-C", str(REPO), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or os.environ.get("CODE_VERSION", "unknown")

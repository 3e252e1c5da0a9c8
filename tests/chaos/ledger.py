"""What was executed, as the tasks themselves wrote it down; and what the warehouse holds of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TaskKey = tuple[str, int]
"""Task id and map index."""


@dataclass
class Execution:
    """One process that began the work of a task; `done_at` is None where it never came to the end."""

    task: TaskKey
    host: str
    code: int
    begun_at: float
    done_at: float | None = None
    code_at_end: int | None = None


def read_executions(folder: Path, run_id: str) -> list[Execution]:
    """Give the executions of a run in the order in which they began.

    Args:
        folder: of the ledger, a file of JSON lines per worker.
    """
    entries = [json.loads(line) for file in folder.glob("*.jsonl") for line in _whole_lines(file)]
    found: dict[str, Execution] = {}
    for entry in sorted(entries, key=lambda entry: float(entry["at"])):
        if entry["run"] != run_id:
            continue
        if entry["event"] == "begun":
            task = (entry["task"], entry["number"])
            found[entry["id"]] = Execution(task, entry["host"], entry["code"], entry["at"])
        else:
            found[entry["id"]].done_at = entry["at"]
            found[entry["id"]].code_at_end = entry["code"]
    return list(found.values())


def _whole_lines(file: Path) -> Iterable[str]:
    """Give the lines; the last one may be in the middle of being written."""
    return (line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n"))


def open_executions(executions: Iterable[Execution], task_id: str | None = None) -> list[Execution]:
    """Give those that have begun and not ended; of one task, if it is named."""
    return [e for e in executions if e.done_at is None and task_id in (None, e.task[0])]


def executions_beyond_one(executions: Iterable[Execution]) -> int:
    """Count how often a task was begun after its first time."""
    return sum(times - 1 for times in Counter(e.task for e in executions).values())


def unfinished(executions: Iterable[Execution], counts: dict[str, int]) -> set[TaskKey]:
    """Name the tasks whose work never came to its end: they are lost.

    Args:
        counts: task id → how many were asked for.
    """
    asked = {(task_id, number) for task_id, count in counts.items() for number in range(count)}
    return asked - {e.task for e in executions if e.done_at is not None}


def begun_again(executions: list[Execution], cut: Iterable[Execution]) -> float | None:
    """Say when the last of the executions that were cut had begun once more; None if one never did."""
    latest: float | None = 0.0
    for gone in cut:
        later = [
            e.begun_at for e in executions if e.task == gone.task and e.begun_at > gone.begun_at
        ]
        if not later or latest is None:
            return None
        latest = max(latest, min(later))
    return latest


# Every change of a row is noted, by the database, in the transaction that makes it.
LINES = 5
"""Rows of each task `write`."""

EFFECTS = """
CREATE TABLE IF NOT EXISTS chaos_effects (
  run_id text, number int, line int, value int NOT NULL, PRIMARY KEY (run_id, number, line));
CREATE TABLE IF NOT EXISTS chaos_changes (run_id text, number int, line int);
CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO chaos_changes VALUES (new.run_id, new.number, new.line); RETURN NULL; END';
CREATE OR REPLACE TRIGGER note_change AFTER INSERT OR UPDATE ON chaos_effects
  FOR EACH ROW EXECUTE FUNCTION note_change();
ALTER TABLE chaos_effects OWNER TO warehouse;
ALTER TABLE chaos_changes OWNER TO warehouse
"""
DOUBLED = """
SELECT count(*) FROM (SELECT FROM chaos_changes WHERE run_id = '{run_id}'
GROUP BY number, line HAVING count(*) > 1) AS doubled
"""
STORED = "SELECT count(*) FROM chaos_effects WHERE run_id = '{run_id}' AND value = number * line"

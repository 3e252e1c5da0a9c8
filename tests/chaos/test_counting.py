"""The counting itself: what is told as lost, begun again, doubled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import results
from tests.chaos.ledger import (
    Execution,
    begun_again,
    executions_beyond_one,
    open_executions,
    read_executions,
    unfinished,
)
from tests.chaos.results import Row, write_row

CUT = Execution(("nap", 0), "w1", 1, 10.0)
AGAIN = Execution(("nap", 0), "w2", 1, 60.0, 70.0)
OTHER = Execution(("noop", 0), "w1", 1, 11.0, 11.1)


def entry(event: str, at: float, **others: object) -> str:
    line = {"run": "r", "task": "nap", "number": 0, "host": "w1", "id": "a", "code": 1}
    return json.dumps(line | {"event": event, "at": at} | others) + "\n"


def test_begin_and_end_make_an_execution(tmp_path: Path):
    """A line that is being written, and another run, count for nothing."""
    (tmp_path / "w1.jsonl").write_text(
        entry("begun", 1) + entry("done", 2, code=2) + entry("begun", 3, id="b", run="s") + '{"run'
    )
    assert read_executions(tmp_path, "r") == [Execution(("nap", 0), "w1", 1, 1, 2, 2)]


def test_execution_that_was_cut_is_open_and_its_task_unfinished():
    assert open_executions([CUT, OTHER]) == [CUT]
    assert open_executions([CUT, OTHER], "noop") == []
    assert unfinished([CUT, OTHER], {"nap": 1, "noop": 2}) == {("nap", 0), ("noop", 1)}


def test_second_execution_is_beyond_one_and_finishes_the_task():
    assert executions_beyond_one([CUT, AGAIN, OTHER]) == 1
    assert unfinished([CUT, AGAIN, OTHER], {"nap": 1, "noop": 1}) == set()


def test_last_task_to_begin_again_counts():
    assert begun_again([CUT, AGAIN, OTHER], [CUT]) == 60
    assert begun_again([CUT, OTHER], [CUT]) is None


def test_row_replaces_the_one_of_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows stand in the order of the faults, whichever was tried first."""
    monkeypatch.setattr(results, "FILE", tmp_path / "RESULTS.md")
    for name, lost in (("redis-kill", 1), ("worker-kill-one", 0), ("redis-kill", 0)):
        write_row(Row(name, 60, lost, 0, 2, None, 0.4, 59.6, "success"), "abc")
    lines = [line.split(" | ") for line in results.FILE.read_text().splitlines()]
    tried = [cells[1:9] for cells in lines if len(cells) > 9 and cells[2] == "60"]
    assert tried == [
        ["`worker-kill-one`", "60", "0", "0", "2", "–", "0", "60"],
        ["`redis-kill`", "60", "0", "0", "2", "–", "0", "60"],
    ]

"""Faults under a mixed load: nothing lost, no effect doubled, every run ends well by itself.

`make chaos FAULT="redis-kill scale" TASKS=300`. Times are told, with RECORD in RESULTS.md too, and never asserted.
"""

from __future__ import annotations

import os
import time
from datetime import datetime

import pytest

from tests.chaos import ledger
from tests.chaos.faults import ALONE, FAULTS
from tests.chaos.results import COLUMNS, Row, line_of, tried_commit, write_row
from tests.chaos.scene import DAG, WORKERS, Scene
from tests.e2e.conftest import ComposeStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

COMMIT = tried_commit()
TASKS = int(os.environ.get("TASKS") or "300")
CHOSEN = (os.environ.get("FAULT") or " ".join(name for name in FAULTS if name not in ALONE)).split()
SHARES = {"noop": 0.5, "nap": 0.17, "train": 0.08}
ENDS_WITHIN_S = 240
DONE_BEFORE = 0.15
GIVEN_UP = """
SELECT extract(epoch FROM min(end_date)) FROM task_instance_history
WHERE run_id = '{run_id}' AND end_date > to_timestamp({struck_at})
"""


def mix(tasks: int) -> dict[str, int]:
    """Give how many tasks of each kind make up `tasks`."""
    counts = {kind: max(1, round(tasks * share)) for kind, share in SHARES.items()}
    return counts | {"write": tasks - sum(counts.values())}


@pytest.mark.parametrize("name", CHOSEN)
def test_fault_loses_and_doubles_nothing(stack: ComposeStack, name: str) -> None:
    counts = mix(TASKS)
    as_it_was(stack)
    scene = Scene(stack, stack.client.trigger(DAG, counts))
    scene.wait_for_progress(int(TASKS * DONE_BEFORE))
    struck_at = time.time()
    FAULTS[name].strike(scene)
    healed_at = time.time()
    state = end_of_run(scene) + changed_code(scene)
    row = judge(scene, name, counts, state, struck_at=struck_at, healed_at=healed_at)
    print(line_of(COLUMNS), line_of(row.cells(COMMIT)), sep="\n")  # noqa: T201 - what this is for
    if os.environ.get("RECORD"):
        write_row(row, COMMIT)
    assert (row.lost, row.doubled, row.state) == (0, 0, "success")


def as_it_was(stack: ComposeStack) -> None:
    """Undo what the fault before left: every container runs, as many as there were."""

    def running() -> tuple[int, int]:
        return len(stack.running("worker")), len(stack.running("scheduler"))

    if running() != (WORKERS, 1):
        assert stack.up(WORKERS).returncode == 0
    wait_for(running, lambda found: found == (WORKERS, 1), deadline_s=60)


def end_of_run(scene: Scene) -> str:
    """Wait for the end of the run; give its state, whatever it is after the deadline."""
    client = scene.stack.client

    def look() -> str:
        return client.run_state(DAG, scene.run_id)

    try:
        return wait_for(look, lambda s: s in ("success", "failed"), deadline_s=ENDS_WITHIN_S)
    except AssertionError:
        return look()


def changed_code(scene: Scene) -> str:
    """Say how many executions ended on other code than they began with."""
    changed = [e for e in scene.executions() if e.code_at_end not in (None, e.code)]
    return f", {len(changed)} on changed code" if changed else ""


def judge(
    scene: Scene,
    name: str,
    counts: dict[str, int],
    state: str,
    *,
    struck_at: float,
    healed_at: float,
) -> Row:
    """Count what the ledger and the warehouse hold."""
    executions = scene.executions()
    cut = [e for e in executions if e.begun_at < healed_at and e.done_at is None]
    after = [e.begun_at for e in executions if e.begun_at > healed_at]
    again = ledger.begun_again(executions, cut) if cut else None
    stored = int(scene.stack.sql("warehouse", ledger.STORED.format(run_id=scene.run_id)))
    missing_rows = counts["write"] * ledger.LINES - stored
    return Row(
        name=name,
        tasks=sum(counts.values()),
        lost=max(len(ledger.unfinished(executions, counts)), missing_rows),
        doubled=int(scene.stack.sql("warehouse", ledger.DOUBLED.format(run_id=scene.run_id))),
        beyond_one=ledger.executions_beyond_one(executions),
        noticed_s=noticed_after(scene, struck_at),
        goes_on_s=min(after) - healed_at if after else None,
        again_s=again and again - struck_at,
        state=state,
    )


def noticed_after(scene: Scene, struck_at: float) -> float | None:
    """Say when the stack first did something: Docker started a container, or a try was given up."""
    failed = GIVEN_UP.format(run_id=scene.run_id, struck_at=struck_at)
    given_up = scene.stack.sql("airflow", failed)
    started = [
        datetime.fromisoformat(c["State"]["StartedAt"][:26] + "+00:00").timestamp()
        for c in scene.stack.containers()
    ]
    moments = [at for at in started if at > struck_at] + ([float(given_up)] if given_up else [])
    return min(moments) - struck_at if moments else None

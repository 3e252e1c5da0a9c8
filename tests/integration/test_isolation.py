"""What waits in one place does not hold up another."""

from __future__ import annotations

import pytest

from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
STATES = """
SELECT state, count(*) FROM task_instance WHERE run_id = %s AND task_id = 'train' GROUP BY state
"""


def test_default_runs_on_while_a_training_backlog_waits(stack: RunningStack):
    """Training fills its pool and its workers, more of it waits, and a task of `default` still ends."""
    release = stack.home.root / "release"
    stack.client.wait_for_dag("training_backlog", deadline_s=90)
    backlog = stack.client.trigger("training_backlog", {"release": str(release)})
    full = {"running": 2, "queued": 2, "scheduled": 2}  # the workers, the pool, and beyond
    try:
        wait_for(lambda: dict(stack.metadata(STATES, backlog)), full.__eq__, deadline_s=60)
        errand = stack.run("errand")
        assert stack.client.run_state("errand", errand) == "success"
        assert dict(stack.metadata(STATES, backlog)) == full
    finally:
        release.touch()
    assert stack.wait_for_end("training_backlog", backlog) == "success"

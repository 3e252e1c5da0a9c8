"""How the SLA page says durations, shares and lateness."""

from __future__ import annotations

from datetime import datetime

import pytest

from celery_stack.sla.page_data import Record, RecordMail
from celery_stack.sla.page_html import duration, lateness, percent, run_url, task_url
from tests.unit.celery_stack.sla.page import (
    NOW,
)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "under 1 s"), (42.9, "42 s"), (60, "1 min"), (3665, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_duration_has_two_units_at_most(seconds: float, said: str):
    """Rounded down: nothing is called later than it was."""
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("share", "said"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.29, "29 %"), (0.0, "0 %")]
)
def test_only_what_was_always_kept_is_hundred_percent(share: float, said: str):
    """A single miss among many is not rounded away."""
    assert percent(share) == said


@pytest.mark.parametrize(
    ("state", "finished", "said"),
    [
        ("running", None, "1 min 30 s so far"),
        ("failed", None, "not finished"),
        ("success", NOW, "1 min 30 s"),
    ],
)
def test_lateness_tells_whether_it_still_grows(state: str, finished: datetime | None, said: str):
    """What failed will not finish by itself."""
    record = Record(
        dag_id="etl",
        run_id="run",
        task_id="",
        name="run",
        due_from=NOW,
        promised=NOW,
        finished=finished,
        verdict="missed",
        state=state,
        lateness_s=90,
        reason="",
        blocking=[],
        recipients=[],
        mail=RecordMail(state="none"),
    )
    assert lateness(record) == said


def test_links_keep_the_path_below_which_airflow_is_reached():
    """And names that are no plain words."""
    assert run_url("/airflow", "a b", "r/1") == "/airflow/dags/a%20b/runs/r%2F1"
    assert task_url("", "etl", "r", "group.load") == "/dags/etl/runs/r/tasks/group.load"

"""A jammed `default`: its workers' slots are taken, more waits in Redis, still more for a place.

One scene, played once, in which tasks go on one by one; the tests read off it what overtakes what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery_stack.why import Code, Reason
from tests.integration.conftest import PARALLELISM, WORKER_SLOTS, RunningStack
from tests.integration.places import most_at_once, place
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
TRAINING, LATE = 2, 3
WAITING = PARALLELISM - TRAINING - WORKER_SLOTS
TASKS = WORKER_SLOTS + WAITING + LATE
INSTANCES = """
SELECT task_id, map_index, state, queued_dttm, start_date, end_date
FROM task_instance WHERE run_id = ANY(%s) AND task_id <> 'plan' ORDER BY start_date
"""


@dataclass(frozen=True)
class Scene:
    """What was seen: why the last task had no place, then every task instance as it started.

    Of the jam's tasks those numbered `waiting` were in Redis before the heavier ones, and those
    numbered `late` had no place yet.
    """

    why: Reason
    instances: list[Any]
    waiting: set[int]
    late: set[int]

    def jam(self, numbers: set[int]) -> list[Any]:
        return [one for one in self.instances if one.task_id == "work" and one.map_index in numbers]

    def urgent(self, task_id: str) -> Any:
        (found,) = (one for one in self.instances if one.task_id == task_id)
        return found


@pytest.fixture(scope="module")
def scene(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Jam `default`; let heavier tasks have the places of two trainings; free one slot alone."""
    gates = tmp_path_factory.mktemp("gates")
    for dag_id in ("training_backlog", "jam", "urgent"):
        stack.client.wait_for_dag(dag_id, deadline_s=90)
    load = {"tasks": TRAINING, "release": str(gates / "trained")}
    training = stack.client.trigger("training_backlog", load)
    try:
        settle(stack, training, running=TRAINING)
        jam = stack.client.trigger("jam", {"tasks": TASKS, "gates": str(gates)})
        numbers = settle(stack, jam, running=WORKER_SLOTS, queued=WAITING, scheduled=LATE)
        first, waiting, late = (numbers[state] for state in ("running", "queued", "scheduled"))
        why = stack.why("jam", jam, "work", max(late))
        urgent = stack.client.trigger("urgent")
        settle(stack, urgent, scheduled=2)
        open_gates(gates, ["trained"])
        settle(stack, urgent, queued=2)
        open_gates(gates, [*waiting, *late, first.pop()])
        assert stack.wait_for_end("urgent", urgent) == "success"
    finally:
        open_gates(gates, ["trained", *range(TASKS)])
    assert stack.wait_for_end("jam", jam) == "success"
    return Scene(why, stack.metadata(INSTANCES, [training, jam, urgent]), waiting, late)


def settle(stack: RunningStack, run_id: str, **expected: int) -> dict[str, set[int]]:
    """Wait until so many tasks of a run are in each state; give their map indexes."""

    def look() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in stack.metadata(INSTANCES, [run_id]):
            found.setdefault(one.state, []).append(one.map_index)
        return found

    seen = wait_for(
        look,
        lambda found: {state: len(numbers) for state, numbers in found.items()} == expected,
        deadline_s=60,
    )
    return {state: set(numbers) for state, numbers in seen.items()}


def open_gates(gates: Path, names: Iterable[object]) -> None:
    for name in names:
        (gates / str(name)).touch()


def test_parallelism_bounds_everything(scene: Scene):
    """Of tasks that no other limit holds back, PARALLELISM are queued or running."""
    assert most_at_once(map(place, scene.instances)) == PARALLELISM


def test_why_names_parallelism_and_who_has_its_places(scene: Scene):
    """All of them, those that wait in Redis too."""
    assert scene.why.code == Code.PARALLELISM
    assert f"PARALLELISM is reached, {PARALLELISM} task instances are queued" in scene.why.text
    states = sorted(holder.state for holder in scene.why.holders)
    assert states == ["queued"] * WAITING + ["running"] * (TRAINING + WORKER_SLOTS)


def test_priority_weight_orders_what_waits_for_a_place(scene: Scene):
    """The heavier tasks came last and are published before the others that wait for a place."""
    published = max(scene.urgent(task_id).queued_dttm for task_id in ("write", "run"))
    assert published < min(one.queued_dttm for one in scene.jam(scene.late))


def test_first_in_first_out_in_redis_whatever_the_weight(scene: Scene):
    """The heavier task of `default` starts after everything that was published before it."""
    waiting = scene.jam(scene.waiting)
    assert scene.urgent("run").start_date > max(one.start_date for one in waiting)


def test_a_writer_is_taken_before_what_waits_longer_in_default(scene: Scene):
    """Its workers turn to queue `pg_io` next: the slot that comes free first is the writer's."""
    writer, waiting = scene.urgent("write"), scene.jam(scene.waiting)
    assert writer.queued_dttm > max(one.queued_dttm for one in waiting)
    assert writer.start_date < min(one.start_date for one in waiting)

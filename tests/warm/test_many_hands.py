"""Two schedulers that events wake, and a worker that replaces the processes of its pool after each task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from compose.home import REPO
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, another, running_stack
from tests.integration.test_wakeups import listening
from tests.waiting import wait_for
from tests.warm.conftest import PARSED_ONCE, expected_lines, worker_of, write_loads

pytestmark = pytest.mark.warm

FILES, TASKS = 3, 30
SCHEDULERS = ("one", "other")
SETTINGS = {
    "WORKER_PROCESS_MAX_MIB": "1",  # each process has more from its birth
    "DAG_REFRESH_S": "5",
    "TASK_RETRIES": "1",
    "RETRY_DELAY_S": "1",
}
TELL = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG"}
QUEUED_BY = "SELECT DISTINCT queued_by_job_id FROM task_instance WHERE dag_id LIKE 'load%%'"
TRIES = "SELECT DISTINCT state, try_number FROM task_instance WHERE dag_id LIKE 'load%%'"


@dataclass(frozen=True)
class Doubled:
    """A stack with two schedulers, and the DAGs of its load."""

    stack: RunningStack
    names: list[str]
    lines: Path

    def run_all(self) -> None:
        """Run every DAG, all of them together."""
        runs = {name: self.stack.client.trigger(name) for name in self.names}
        for name, run_id in runs.items():
            assert self.stack.wait_for_end(name, run_id) == "success"


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doubled]:
    """Start it; both schedulers are the test's own, because they are to log their wake-ups."""
    folder = tmp_path_factory.mktemp("doubled")
    dags, lines = folder / "dags", folder / "lines"
    dags.mkdir()
    names = write_loads(dags, lines, files=FILES, tasks=TASKS)
    scale = ("worker=1", "worker-cpu-train=0")
    home = REPO / ".stack-test-doubled"
    with running_stack(home, *scale, dags_of_tests=dags, **SETTINGS) as stack, ExitStack() as own:
        for name in names:
            stack.client.wait_for_dag(name, deadline_s=90)
        Supervisor(stack.home)._rpc.supervisor.stopProcess("control:scheduler")
        for name in SCHEDULERS:
            own.enter_context(another(stack, "scheduler", name=name, **TELL))
        wait_for(lambda: listening(stack), lambda pids: len(pids) == 2, deadline_s=60)
        yield Doubled(stack, names, lines)


def test_two_schedulers_are_woken_and_lose_and_double_nothing(doubled: Doubled):
    """Both take part, until each has queued some of the tasks; each task runs once."""
    rounds = 0

    def run_and_ask() -> list[int]:
        nonlocal rounds
        rounds += 1
        doubled.run_all()
        return [row.queued_by_job_id for row in doubled.stack.metadata(QUEUED_BY)]

    wait_for(run_and_ask, lambda schedulers: len(schedulers) == 2, deadline_s=240)
    assert sorted(doubled.lines.read_text().splitlines()) == sorted(
        expected_lines(doubled.names, TASKS) * rounds
    )
    assert [tuple(row) for row in doubled.stack.metadata(TRIES)] == [("success", 1)]
    for name in SCHEDULERS:
        log = doubled.stack.home.program_logs / f"{name}-scheduler.log"
        assert "The scheduler is woken." in log.read_text()


def test_process_that_has_grown_is_replaced_and_the_next_one_works_with_templates(doubled: Doubled):
    """After its task, never in it; the guardian and its server stay, and no zombie is left."""
    worker = worker_of(doubled.stack)
    former = {process.pid for process in worker.children()}
    name = doubled.names[0]
    run_id = doubled.stack.client.trigger(name)
    assert doubled.stack.wait_for_end(name, run_id) == "success"
    logs = doubled.stack.home.task_logs.glob(f"dag_id={name}/run_id={run_id}/**/attempt=1.log")
    forked = [PARSED_ONCE in log.read_text() for log in logs]
    assert len(forked) == TASKS
    assert sum(forked) > TASKS / 2
    wait_for(
        lambda: [process.cmdline()[:1] for process in worker.children() if process.pid in former],
        [["airflow template guardian"]].__eq__,
        deadline_s=30,
    )
    wait_for(lambda: zombies(worker), lambda found: not found, deadline_s=30)


def zombies(worker: psutil.Process) -> list[psutil.Process]:
    """Give what has ended and that Celery has not asked about yet; what is gone meanwhile is none."""
    found = []
    for process in worker.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] if process.status() == psutil.STATUS_ZOMBIE else []
    return found

"""Tasks forked from templates behave as if each had a process, and a parse, of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.waiting import wait_for
from tests.warm.conftest import LOAD_FILES, LOAD_TASKS, PARSED_ONCE, SERVER, Copy, expected_lines

pytestmark = pytest.mark.warm


def log_of(copy: Copy, dag_id: str, run_id: str, task_id: str) -> str:
    folder = copy.stack.home.task_logs / f"dag_id={dag_id}/run_id={run_id}/task_id={task_id}"
    return "".join(path.read_text() for path in sorted(folder.rglob("*.log")))


def versions(copy: Copy, run_id: str) -> Any:
    return copy.stack.client.result("edited", run_id, "tell")


def run_from_template(copy: Copy, dag_id: str, task_id: str, conf: dict[str, Any]) -> str:
    """Run the DAG until the log of its task says that it was forked from a template."""

    def run() -> tuple[str, bool]:
        run_id = copy.stack.run(dag_id, conf)
        return run_id, PARSED_ONCE in log_of(copy, dag_id, run_id, task_id)

    return wait_for(run, lambda found: found[1], deadline_s=120)[0]


def start_held(copy: Copy, release: Path) -> str:
    """Start a task that runs until there is a file `release`; give its run once it runs."""
    run_id = copy.stack.client.trigger("edited", {"release": str(release)})
    wait_for(
        lambda: copy.stack.tasks("edited", run_id)["tell"].state,
        lambda state: state == "running",
        deadline_s=60,
    )
    return run_id


def server_of(copy: Copy) -> psutil.Process:
    (server,) = (p for p in copy.worker().children(recursive=True) if p.cmdline()[:1] == [SERVER])
    return server


@pytest.mark.parametrize(
    ("what", "file", "former", "text"),
    [
        ("dag", "dags/edited.py", '"dag": "old"', '"dag": "new"'),
        ("helper", "dags/helper_of_edited.py", '"old"', '"new"'),
        ("ml", "ml/probe_of_edited.py", '"old"', '"new"'),
    ],
)
def test_next_task_sees_an_edit_and_the_running_one_does_not(
    copy: Copy, tmp_path: Path, what: str, file: str, former: str, text: str
):
    """A DAG file, a helper that it imports, `ml`; both before and after there is a new template."""
    run_from_template(copy, "edited", "tell", {})
    release = tmp_path / "release"
    running = start_held(copy, release)
    path = copy.dags / Path(file).name if file.startswith("dags") else copy.checkout / file
    path.write_text(path.read_text().replace(former, text))
    assert versions(copy, copy.stack.run("edited"))[what] == "new"
    assert versions(copy, run_from_template(copy, "edited", "tell", {}))[what] == "new"
    release.touch()
    assert copy.stack.wait_for_end("edited", running) == "success"
    assert versions(copy, running)[what] == "old"


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("leak", "success"),
        ("exit_at_once", "failed"),
        ("segfault", "failed"),
        ("start_threads", "success"),
        ("pollute", "success"),
        ("hang", "failed"),
    ],
)
def test_mistreated_process_leaves_the_next_task_clean(copy: Copy, kind: str, state: str):
    """Both come from one template; nothing of the first is seen by the second."""
    run_id = run_from_template(copy, "abuse", "look", {"kind": kind})
    assert copy.stack.tasks("abuse", run_id)["mistreat"].state == state
    seen = copy.stack.client.result("abuse", run_id, "look")
    assert seen.pop("parent") == parent_of_tasks(copy)
    assert seen == {
        "leak": 0,
        "threads": 1,
        "polluted": None,
        "directory": seen["directory"],
        "json": 1,
        "handlers": {"SIGTERM": seen["handlers"]["SIGTERM"], "SIGINT": "0"},
    }
    assert seen["directory"] != "/"


def parent_of_tasks(copy: Copy) -> int:
    templates = [
        p for p in copy.worker().children(recursive=True) if "template: abuse.py" in p.cmdline()[0]
    ]
    return templates[-1].pid


def test_two_thousand_tasks_over_twenty_files_lose_and_double_nothing(copy: Copy):
    """More files than templates; memory stays flat, no zombie is left, every log is whole."""
    names = [f"load_{number:02}" for number in range(LOAD_FILES)]
    for name in names:
        copy.stack.client.wait_for_dag(name, deadline_s=120)
    first = [(name, copy.stack.client.trigger(name)) for name in names[: LOAD_FILES // 2]]
    for name, run_id in first:
        assert copy.stack.wait_for_end(name, run_id, deadline_s=600) == "success"
    before = memory_mib(copy)
    rest = [(name, copy.stack.client.trigger(name)) for name in names[LOAD_FILES // 2 :]]
    for name, run_id in rest:
        assert copy.stack.wait_for_end(name, run_id, deadline_s=600) == "success"
    lines = (copy.checkout / "lines").read_text().splitlines()
    assert sorted(lines) == expected_lines(names, LOAD_TASKS)
    for name, run_id in (*first, *rest):
        folder = copy.stack.home.task_logs / f"dag_id={name}/run_id={run_id}"
        logs = [path.read_text() for path in folder.rglob("*.log")]
        assert len(logs) == LOAD_TASKS
        assert all("line left" in log and "Done. Returned value" in log for log in logs)
    assert memory_mib(copy) < before * 1.1
    for process in copy.worker().children(recursive=True):
        assert process.status() != psutil.STATUS_ZOMBIE, process


def memory_mib(copy: Copy) -> float:
    """Give the proportional set size of the worker and all that it has forked."""
    worker = copy.worker()
    family = [worker, *worker.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family) / 2**20


def test_killed_template_server_is_replaced_and_nothing_is_lost(copy: Copy, tmp_path: Path):
    """The task that runs meanwhile runs on, one that starts meanwhile runs too, later ones find a template."""
    run_from_template(copy, "edited", "tell", {})
    release, former = tmp_path / "release", server_of(copy)
    running = start_held(copy, release)
    former.kill()
    assert copy.stack.wait_for_end("edited", copy.stack.run("edited")) == "success"
    run_from_template(copy, "edited", "tell", {})
    assert server_of(copy) != former
    release.touch()
    assert copy.stack.wait_for_end("edited", running) == "success"
    assert copy.stack.tasks("edited", running)["tell"].try_number == 1


def test_killed_worker_leaves_no_orphan(copy: Copy, tmp_path: Path):
    """SIGKILL to Celery's main process: supervisors, templates and tasks end with it.

    So do those whose template server died before.
    """
    run_from_template(copy, "edited", "tell", {})
    start_held(copy, tmp_path / "never")
    worker, server = copy.worker(), server_of(copy)
    family = worker.children(recursive=True)
    server.kill()
    kill_with_family(worker, family)


def kill_with_family(worker: psutil.Process, family: list[psutil.Process]) -> None:
    worker.kill()
    _, alive = psutil.wait_procs([worker, *family], timeout=30)
    assert alive == []


def test_plugin_edit_reaches_the_next_task_in_a_new_interpreter(copy: Copy):
    """What the worker has preloaded cannot be forked from any more; a log line says what to do."""
    copy.stack.run("edited")  # the worker is up again after the test before
    plugin = copy.checkout / "plugins/celery_stack/retries.py"
    plugin.write_text(plugin.read_text().replace('VERSION = "old"', 'VERSION = "new"'))
    assert versions(copy, copy.stack.run("edited"))["plugin"] == "new"
    log = (copy.stack.home.program_logs / "worker-1.log").read_text()
    assert "retries.py has changed since this worker started" in log


def test_killed_worker_leaves_no_new_interpreter(copy: Copy, tmp_path: Path):
    """The tasks that the edit before has started anew end with their worker as well."""
    start_held(copy, tmp_path / "never")
    worker = copy.worker()
    family = worker.children(recursive=True)
    assert [process for process in family if "_child_exec_main" in " ".join(process.cmdline())]
    kill_with_family(worker, family)

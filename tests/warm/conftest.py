"""A stack that runs from a copy of the checkout, so that tests may edit its code while it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from compose.home import REPO
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, running_stack

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".stack*", ".*_cache", "__pycache__", "tests")
PARSED_ONCE = '"dag_file_parse_ms":0,'
"""In the log of a task that was forked from a template."""
SERVER = "airflow templates"
"""What the template server calls itself in the list of processes."""
LOAD_FILES = 20
LOAD_TASKS = 100
LOAD = '''
"""Many tasks, each of which leaves a line outside Airflow."""
import os
from datetime import timedelta
from airflow.sdk import dag, task

@dag(
    "{name}", schedule=None, doc_md=__doc__, max_active_tasks=32, is_paused_upon_creation=False,
    default_args={{"owner": "tests", "execution_timeout": timedelta(seconds=60)}},
)
def load():
    @task
    def leave_line(number):
        line = os.open("{lines}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{name} {{number}}\\n".encode())
        print("line left")
    leave_line.expand(number=list(range({tasks})))

load()
'''


def write_loads(dags: Path, lines: Path, *, files: int, tasks: int) -> list[str]:
    """Write DAG files of many tasks each, which leave their lines in `lines`; give the DAGs' names."""
    names = [f"load_{number:02}" for number in range(files)]
    for name in names:
        (dags / f"{name}.py").write_text(LOAD.format(name=name, lines=lines, tasks=tasks))
    return names


def expected_lines(names: list[str], tasks: int) -> list[str]:
    """Give what the tasks of those DAGs leave, sorted."""
    return sorted(f"{name} {number}" for name in names for number in range(tasks))


def worker_of(stack: RunningStack) -> psutil.Process:
    """Give Celery's main process."""
    programs = {one["name"]: one["pid"] for one in Supervisor(stack.home).processes()}
    return psutil.Process(programs["worker-1"])


@dataclass(frozen=True)
class Copy:
    """A checkout of one's own, and the stack that runs from it."""

    checkout: Path
    stack: RunningStack

    @property
    def dags(self) -> Path:
        return Path(self.stack.env["DAGS_FOLDER"])

    def worker(self) -> psutil.Process:
        return worker_of(self.stack)


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """Give a stack with one worker of four slots, run from a copy of the checkout."""
    checkout = tmp_path_factory.mktemp("warm") / "checkout"
    shutil.copytree(REPO, checkout, ignore=LEFT_OUT)
    (checkout / "ml/probe_of_edited.py").write_text('VERSION = "old"\n')
    with (checkout / "plugins/celery_stack/retries.py").open("a") as plugin:
        plugin.write('\nVERSION = "old"\n')
    dags = checkout / "dags_of_tests"
    shutil.copytree(REPO / "tests/warm/dags", dags)
    (dags / "helper_of_edited.py").write_text('VERSION = "old"\n')
    write_loads(dags, checkout / "lines", files=LOAD_FILES, tasks=LOAD_TASKS)
    path = os.pathsep.join([str(checkout), str(checkout / "plugins")])
    settings = {"PYTHONPATH": path, "DAG_REFRESH_S": "5", "TASK_RETRIES": "1", "RETRY_DELAY_S": "1"}
    folder = checkout / ".stack"
    with running_stack(
        folder, "worker=1", dags_of_tests=dags, checkout=checkout, **settings
    ) as stack:
        yield Copy(checkout, stack)

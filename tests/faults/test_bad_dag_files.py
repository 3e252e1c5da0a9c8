"""DAG files that cannot be read: each is named with what is wrong with it, and the others run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import RunningStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
CYCLE = '''
"""Two tasks that wait for each other."""
from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "tests", "execution_timeout": timedelta(minutes=5)}


@dag(doc_md=__doc__, schedule=None, is_paused_upon_creation=False, default_args=OWNED)
def cycle():
    @task
    def first(): ...

    @task
    def second(): ...

    one, two = first(), second()
    one >> two >> one


cycle()
'''
BAD = {
    "syntax.py": ("# a DAG of airflow\ndef broken(:\n", "invalid syntax"),
    "cycle.py": (CYCLE, "Cycle detected in Dag: cycle. Faulty task: "),
    "endless.py": (
        "# a DAG of airflow\nwhile True:\n    pass\n",
        "DagBag import timeout for",
    ),
}
GOOD = CYCLE.replace(" >> one\n", "\n").replace("cycle", "straight")


@pytest.fixture
def bad_files(stack: RunningStack) -> Iterator[Path]:
    """Lay the bad files, and then a good one, beside the others; take them away at the end."""
    folder = Path(stack.env["DAGS_FOLDER"])
    for name, (text, _) in BAD.items():
        (folder / name).write_text(text)
    (folder / "straight.py").write_text(GOOD)
    yield folder
    for name in (*BAD, "straight.py"):
        (folder / name).unlink()


def test_bad_dag_files_are_named_and_the_others_run(
    stack: RunningStack, bad_files: Path, tmp_path: Path
):
    """A syntax error, a cycle and an import without end; a DAG that came after them is found meanwhile."""
    stack.client.wait_for_dag("straight", deadline_s=90)
    stack.client.wait_for_dag("counted", deadline_s=90)
    (tmp_path / "gate").touch()
    run_id = stack.client.trigger("counted", {"tasks": 2, "folder": str(tmp_path)})
    assert stack.wait_for_end("counted", run_id, deadline_s=120) == "success"

    errors = wait_for(
        stack.client.import_errors, lambda found: found.keys() >= BAD.keys(), deadline_s=120
    )
    for name, (_, said) in BAD.items():
        assert said in errors[name]

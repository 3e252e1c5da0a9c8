"""The command that checks a folder of DAG files without a stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from celery_stack.check_dags import airflow_environment, main

BAD_DAGS = '''
"""Two DAGs in one file."""

from datetime import timedelta

from airflow.sdk import DAG, task

for dag_id in ("b", "a"):
    with DAG(dag_id, doc_md=__doc__, default_args={"owner": "x", "retries": 1}) as dag:

        @task(queue="gpu", execution_timeout=timedelta(minutes=1))
        def step(): ...

        step()
    globals()[dag_id] = dag
'''
DEFAULT_RETRIES_DAG = '''
"""Leaves its retries to the stack."""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(doc_md=__doc__, default_args={"owner": "x", "execution_timeout": timedelta(minutes=1)})
def patient():
    @task
    def step(): ...

    step()


patient()
'''
UNDECLARED = "queue 'gpu' is not declared. Use one of: default, pg_io, cpu_train; or declare it in queues.toml."


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_good_folder_passes_whatever_the_shell_and_directory(tmp_path: Path) -> None:
    """Another Airflow's settings do no harm, the stack's hold, and nothing is written anywhere."""
    dags, home = tmp_path / "dags", tmp_path / "home"
    dags.mkdir()
    home.mkdir()
    (dags / "patient.py").write_text(DEFAULT_RETRIES_DAG)
    shell = {
        **os.environ,
        "HOME": str(home),
        "AIRFLOW_HOME": "/proc/none",
        "AIRFLOW__CORE__EXECUTOR": "none.at.All",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "0",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "nonsense://",
        "_AIRFLOW__AS_LIBRARY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "celery_stack.check_dags", "../dags"],
        cwd=home,
        env=shell,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "1 DAG in 1 file: no violations\n"), done.stderr
    assert tree(dags) == [dags / "patient.py"]
    assert tree(home) == []


def test_good_folder_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of DAGs and of files tells that something was checked."""
    for dag in ("first", "second"):
        text = DEFAULT_RETRIES_DAG.replace("patient", dag).replace("@task", "@task(retries=1)")
        (tmp_path / f"{dag}.py").write_text(text)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 DAGs in 2 files: no violations\n"


def test_every_bad_file_gets_a_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Violations of all DAGs of a file, import errors, a blank line between files; exit code 1."""
    (tmp_path / "two.py").write_text(BAD_DAGS)
    (tmp_path / "broken.py").write_text("# an airflow dag\nraise RuntimeError('no such table')\n")
    assert main([str(tmp_path)]) == 1
    broken, two = capsys.readouterr().out.split("\n\n")
    assert broken.splitlines()[0] == str(tmp_path / "broken.py")
    assert broken.splitlines()[-1] == "RuntimeError: no such table"
    assert two.splitlines() == [
        str(tmp_path / "two.py"),
        f"DAG a, task step: {UNDECLARED}",
        f"DAG b, task step: {UNDECLARED}",
    ]


def test_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, so that a typing error is no success."""
    assert main([str(tmp_path / "dagz")]) == 2
    assert capsys.readouterr().err == (
        f"FOLDER must be a folder of DAG files, got '{tmp_path / 'dagz'}'. Name one.\n"
    )


@pytest.mark.parametrize("text", [None, "x = 1\n", "# mentions airflow and dag\n"])
def test_folder_without_a_dag_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    """Nothing checked is exit code 2 as well."""
    if text is not None:
        (tmp_path / "helper.py").write_text(text)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"FOLDER must hold at least one DAG, found none in '{tmp_path}'. "
        "Name another, or see its .airflowignore.\n"
    )


def test_environment_is_the_same_after_the_check(tmp_path: Path) -> None:
    """What Airflow was told for the time of the check is taken back."""
    before = dict(os.environ)
    main([str(tmp_path)])
    assert dict(os.environ) == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with settings for Airflow and a .env."""
    (tmp_path / "compose").mkdir()
    (tmp_path / "compose/airflow.env").write_text(
        "# shared\nAIRFLOW__CORE__DEFAULT_TASK_RETRIES=${TASK_RETRIES:-2}\n"
        'JSON={"a": ${N:-1}, "b": 2}\n'
    )
    (tmp_path / ".env").write_text("TASK_RETRIES=5\nPG_IO_SLOTS=\nAIRFLOW__CORE__FERNET_KEY=x\n")
    return tmp_path


def test_shared_settings_take_their_values_from_dotenv(root: Path) -> None:
    """`${NAME:-default}` is read as Compose does; empty is unset, AIRFLOW__ is dropped."""
    assert airflow_environment({}, Path("/home"), [root]) == {
        "TASK_RETRIES": "5",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "5",
        "JSON": '{"a": 1, "b": 2}',
        "AIRFLOW_HOME": "/home",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
    }


def test_shell_wins_over_dotenv(root: Path) -> None:
    """As in both ways of running the stack."""
    env = airflow_environment({"TASK_RETRIES": "7"}, Path("/home"), [root])
    assert env["AIRFLOW__CORE__DEFAULT_TASK_RETRIES"] == "7"


def test_files_may_be_absent(tmp_path: Path) -> None:
    """Without a checkout the command works with Airflow's own defaults."""
    assert airflow_environment({"A": "b"}, Path("/home"), [tmp_path]) == {
        "A": "b",
        "AIRFLOW_HOME": "/home",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
    }

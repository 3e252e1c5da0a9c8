"""What the policies refuse, in which words, and what they fill in; on real DAG files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import airflow.example_dags
import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization

from celery_stack.check_dags import Report, check_folder, private_airflow

Check = Callable[[str], Report]

QUEUES = "Use one of: default, pg_io, cpu_train; or declare it in queues.toml."
POOLS = "Use one of: default_pool, cpu_train, pg_io; or declare it in queues.toml."


def dag_text(body: str, *, doc: str = "doc_md=__doc__") -> str:
    """Give a DAG file whose DAG `wdbc_training` holds the tasks in `body`."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f'''
"""Training."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import dag, setup, task, task_group, teardown

OWNED = {{"owner": "ml-team", "execution_timeout": timedelta(minutes=5), "retries": 1}}


@dag(schedule=None, default_args=OWNED, {doc})
def wdbc_training():
{indented}


wdbc_training()
'''


def train_with(arguments: str) -> str:
    """Give a DAG file with one task `train`, made with the arguments."""
    return dag_text(f"BashOperator(task_id='train', bash_command='true', {arguments})")


def lines_of(report: Report) -> list[str]:
    """Give the lines about the bad file; the good one beside it must have loaded."""
    assert report.dags == 1, "the good DAG did not load"
    ((file, lines),) = report.findings.items()
    assert file.endswith("bad.py")
    return list(lines)


def tasks_of(folder: Path, text: str) -> dict[str, Any]:
    """Give the tasks of a DAG file that must load, as the policies left them."""
    (folder / "only.py").write_text(text)
    bag = BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder")
    assert bag.import_errors == {}
    return dict(bag.dags["wdbc_training"].task_dict)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("queue='gpu'", f"queue 'gpu' is not declared. {QUEUES}"),
        ("pool='gpu'", f"pool 'gpu' is not declared. {POOLS}"),
        (
            "queue='cpu_train'",
            "queue 'cpu_train' needs pool 'cpu_train', found 'default_pool'. Set pool='cpu_train'.",
        ),
        (
            "pool='cpu_train'",
            "pool 'cpu_train' belongs to queue 'cpu_train', found queue 'default'. "
            "Set queue='cpu_train', or another pool.",
        ),
        (
            "pool='pg_io'",
            "pool 'pg_io' belongs to queue 'pg_io', found queue 'default'. "
            "Set queue='pg_io', or another pool.",
        ),
        (
            "queue='pg_io', pool='pg_io', pool_slots=5",
            "pool_slots is 5, but pool 'pg_io' has 4: the task would wait for ever. "
            "Use at most 4, or raise PG_IO_SLOTS.",
        ),
        (
            "execution_timeout=None",
            "execution_timeout is missing, the task could hold its slot for ever. "
            "Set it to a timedelta that the longest healthy run stays below.",
        ),
        (
            "owner='airflow'",
            "owner is missing, found 'airflow'. "
            "Set owner to the person or team to ask, for all tasks in default_args.",
        ),
        (
            "owner=' '",
            "owner is missing, found ' '. "
            "Set owner to the person or team to ask, for all tasks in default_args.",
        ),
        (
            "retries=0, doc_md='Trains.'",
            "retries is 0 without a reason. Leave retries out, or say in the task's doc_md "
            "why it must not be retried.",
        ),
    ],
)
def test_task_is_refused_by_name_with_the_remedy(
    check: Check, arguments: str, problem: str
) -> None:
    """One line: DAG, task, found, expected, remedy; the DAG beside it still loads."""
    report = check(train_with(arguments))
    assert lines_of(report) == [f"DAG wdbc_training, task train: {problem}"]


@pytest.mark.parametrize("doc", ["", "doc_md=' '"])
def test_dag_without_a_page_is_refused(check: Check, doc: str) -> None:
    """A DAG's docstring is its page in the UI."""
    report = check(dag_text("BashOperator(task_id='train', bash_command='true')", doc=doc))
    assert lines_of(report) == [
        "DAG wdbc_training: doc_md is missing, the DAG's page in the UI would be empty. "
        "Write the file's docstring and pass doc_md=__doc__."
    ]


def test_every_violation_of_a_dag_is_reported_at_once(check: Check) -> None:
    """A bad first task does not hide the second, nor a task's first mistake its next."""
    body = """
BashOperator(task_id='one', bash_command='true', queue='gpu', execution_timeout=None)
BashOperator(task_id='two', bash_command='true', pool='gpu')
"""
    assert lines_of(check(dag_text(body))) == [
        f"DAG wdbc_training, task one: queue 'gpu' is not declared. {QUEUES}",
        "DAG wdbc_training, task one: execution_timeout is missing, the task could hold its slot "
        "for ever. Set it to a timedelta that the longest healthy run stays below.",
        f"DAG wdbc_training, task two: pool 'gpu' is not declared. {POOLS}",
    ]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("mapped", "BashOperator.partial(task_id='mapped', {}).expand(bash_command=['true'])"),
        ("step", "@task({})\ndef step(x): ...\nstep.expand(x=[1])"),
        ("step", "@task.bash({})\ndef step(): return 'true'\nstep()"),
        ("step", "@task.bash({})\ndef step(x): return 'true'\nstep.expand(x=[1])"),
        ("wait", "PythonSensor(task_id='wait', python_callable=bool, {})"),
        ("step", "@setup({})\ndef step(): ...\nstep()".replace("@setup", "@setup\n@task")),
        ("step", "@teardown({})\ndef step(): ...\nstep()".replace("@teardown", "@teardown\n@task")),
        ("part.step", "@task_group\ndef part():\n  @task({})\n  def step(): ...\n  step()\npart()"),
        (
            "part.step",
            "@task_group\ndef part(x):\n  @task({})\n  def step(x): ...\n  step(x)\n"
            "part.expand(x=[1])",
        ),
        ("empty", "EmptyOperator(task_id='empty', on_success_callback=print, {})"),
    ],
)  # fmt: skip
def test_every_kind_of_task_is_checked(check: Check, name: str, body: str) -> None:
    """Mapped tasks, decorators, sensors, setup, teardown, groups, an EmptyOperator's callbacks."""
    text = dag_text(body.format("queue='gpu', pool='pg_io', pool_slots=9, execution_timeout=None"))
    assert lines_of(check(text)) == [
        f"DAG wdbc_training, task {name}: queue 'gpu' is not declared. {QUEUES}",
        f"DAG wdbc_training, task {name}: pool_slots is 9, but pool 'pg_io' has 4: the task would "
        "wait for ever. Use at most 4, or raise PG_IO_SLOTS.",
        f"DAG wdbc_training, task {name}: execution_timeout is missing, the task could hold its "
        "slot for ever. Set it to a timedelta that the longest healthy run stays below.",
    ]


@pytest.mark.parametrize(
    "body",
    [
        "EmptyOperator(task_id='end', queue='gpu', execution_timeout=None, retries=0)",
        "BashOperator(task_id='a', bash_command='', queue='cpu_train', pool='cpu_train')",
        "BashOperator(task_id='a', bash_command='', retries=0, doc_md='A retry would pay twice.')",
        "@task(retries=0)\ndef step(x):\n  'No retries: pays.'\nstep.expand(x=[1])",
        "PythonSensor(task_id='wait', python_callable=bool, mode='reschedule')",
    ],
)
def test_what_a_good_reason_or_no_worker_excuses_is_accepted(check: Check, body: str) -> None:
    """A bare EmptyOperator never reaches a worker; a training task is where it belongs."""
    report = check(dag_text(body))
    assert report.findings == {}
    assert report.dags == 2


def test_declared_slots_follow_the_environment(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raised PG_IO_SLOTS lets a wider task pass."""
    monkeypatch.setenv("PG_IO_SLOTS", "5")
    assert check(train_with("queue='pg_io', pool='pg_io', pool_slots=5")).findings == {}


def test_wrong_setting_is_every_dags_error(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies that cannot read their settings let nothing through."""
    monkeypatch.setenv("PG_IO_SLOTS", "many")
    report = check(train_with(""))
    assert report.dags == 0
    assert [list(lines) for lines in report.findings.values()] == 2 * [
        [
            "AirflowClusterPolicyError: PG_IO_SLOTS must be a whole number from 1 to 4096, "
            "got 'many'. Set it in .env."
        ]
    ]


@pytest.mark.parametrize("paths", ["bad.py", "other, *bad*", "b?d.py,"])
def test_exempt_file_is_left_alone(
    check: Check, monkeypatch: pytest.MonkeyPatch, paths: str
) -> None:
    """POLICY_EXEMPT_PATHS names foreign DAG files by name or glob."""
    monkeypatch.setenv("POLICY_EXEMPT_PATHS", paths)
    assert check(train_with("queue='gpu'")).findings == {}


def test_exempt_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder covers what is in it, and not a folder whose name starts alike."""
    for folder in ("vendor", "vendor_of_ours"):
        (tmp_path / folder).mkdir()
        text = train_with("queue='gpu'").replace("wdbc_training", folder)
        (tmp_path / folder / "dags.py").write_text(text)
    monkeypatch.setenv("POLICY_EXEMPT_PATHS", "vendor/")
    assert list(check_folder(tmp_path).findings) == [str(tmp_path / "vendor_of_ours/dags.py")]


def test_exempt_task_keeps_airflows_retry_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left alone means filled in neither."""
    monkeypatch.setenv("POLICY_EXEMPT_PATHS", "only.py")
    task = tasks_of(tmp_path, train_with(""))["train"]
    assert (task.retry_exponential_backoff, task.max_retry_delay) == (0, None)


TASKS_WITH_RETRIES = [
    "BashOperator(task_id='step', bash_command='true', {})",
    "BashOperator.partial(task_id='step', {}).expand(bash_command=['true'])",
    "@task({})\ndef step(): ...\nstep()",
    "@task({})\ndef step(x): ...\nstep.expand(x=[1])",
]


@pytest.mark.parametrize("body", TASKS_WITH_RETRIES)
@pytest.mark.parametrize(
    ("arguments", "backoff", "cap_s"),
    [
        ("", 2.0, 1800),
        ("retry_exponential_backoff=3", 3.0, 1800),
        ("retry_exponential_backoff=1", 1.0, 1800),
        ("retry_exponential_backoff=False", 0.0, 1800),
        ("max_retry_delay=timedelta(seconds=7)", 2.0, 7),
        ("retry_delay=timedelta(hours=2)", 2.0, 10800),
    ],
)
def test_backoff_is_filled_in_where_the_author_named_none(
    tmp_path: Path, body: str, arguments: str, backoff: float, cap_s: int
) -> None:
    """An author's own factor, cap, longer delay (and room for its jitter) or False stays."""
    task = tasks_of(tmp_path, dag_text(body.format(arguments)))["step"]
    assert task.retry_exponential_backoff == backoff
    assert task.max_retry_delay == timedelta(seconds=cap_s)


def test_filled_in_values_come_from_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETRY_BACKOFF and MAX_RETRY_DELAY_S are the stack's defaults."""
    monkeypatch.setenv("RETRY_BACKOFF", "1.5")
    monkeypatch.setenv("MAX_RETRY_DELAY_S", "60")
    task = tasks_of(tmp_path, train_with(""))["train"]
    assert task.retry_exponential_backoff == 1.5
    assert task.max_retry_delay == timedelta(minutes=1)


@pytest.mark.parametrize("body", TASKS_WITH_RETRIES)
def test_scheduler_gets_the_filled_in_values(tmp_path: Path, body: str) -> None:
    """They survive the serialization through which the scheduler sees the DAG."""
    task = tasks_of(tmp_path, dag_text(body.format("")))["step"]
    stored = DagSerialization.from_dict(DagSerialization.to_dict(task.dag)).get_task("step")
    assert stored.retry_exponential_backoff == 2.0
    assert stored.max_retry_delay == timedelta(minutes=30)


def test_unrelated_variable_stops_no_dag(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LOG_LEVEL that some other program understands is not the policies' business."""
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    assert check(train_with("")).findings == {}


def test_airflows_own_examples_are_judged_and_never_break_a_policy() -> None:
    """Whatever a foreign DAG is made of, the policies' answer is a line that names it."""
    report = check_folder(Path(next(iter(airflow.example_dags.__path__))))
    assert len(report.findings) > 30
    strange = [x for lines in report.findings.values() for x in lines if not x.startswith("DAG ")]
    assert strange == []


def test_policies_are_registered_whoever_is_imported_first() -> None:
    """Airflow loads the policies in the middle of its own import."""
    code = (
        "import celery_stack.policies as ours\n"
        "from airflow.settings import get_policy_plugin_manager\n"
        "hooks = get_policy_plugin_manager().hook\n"
        "for hook in hooks.dag_policy, hooks.task_policy:\n"
        "    assert [impl.plugin for impl in hook.get_hookimpls()] == [ours]\n"
    )
    with private_airflow(environ := dict(os.environ)):
        subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=60)


def test_dag_without_a_file_is_judged(check: Check) -> None:
    """A DAG made by exec has a file name that is none."""
    made = train_with("queue='gpu'")
    text = f"# airflow dag\nimport sys\nexec({made!r}, vars(sys.modules[__name__]))\n"
    assert lines_of(check(text)) == [
        f"DAG wdbc_training, task train: queue 'gpu' is not declared. {QUEUES}"
    ]

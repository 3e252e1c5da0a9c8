"""What authors write: checked when it is parsed, kept through Airflow's serialization."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from airflow.serialization.encoders import encode_deadline_alert

from celery_stack.sla import SlaEvent, run_sla, task_sla
from celery_stack.sla.declare import Promise
from celery_stack.sla.event import find_callback, from_json, to_json
from celery_stack.sla.judge import judge, length, story
from celery_stack.sla.schema import Blocking, Miss
from stack_plugin import StackPlugin
from tests.unit.celery_stack.conftest import Check

DUE = datetime(2026, 11, 25, 6, tzinfo=UTC)

DAG = '''
"""A DAG with promises."""

from datetime import timedelta

from airflow.sdk import DAG, dag, task

from celery_stack.sla import run_sla, task_sla


def mine(event): ...


@dag(
    doc_md=__doc__,
    schedule=None,
    default_args={{"owner": "ml-team", "execution_timeout": timedelta(minutes=5)}},
    deadline=[{promises}],
)
def training():
    @task
    def load(): ...

    @task
    def train(): ...

    load() >> train()


training()
'''


def test_promise_survives_serialization():
    """As it is written, so the scheduler has it, and the monitor reads it as JSON."""
    alert = task_sla(
        "train", minutes=30, to=["ml@example.org"], on_miss="on_call.page", variable="sla_train"
    )
    encoded = encode_deadline_alert(alert)
    assert encoded["reference"] == {
        "reference_type": "Promise",
        "__class_path": "celery_stack.sla.declare.Promise",
        "task_id": "train",
        "name": "train",
        "seconds": 1800.0,
        "to": ["ml@example.org"],
        "on_miss": "on_call.page",
        "variable": "sla_train",
    }
    assert Promise.deserialize_reference(encoded["reference"]) == alert.reference
    assert hash(alert.reference) is not None


def test_plugin_registers_the_reference():
    """Else Airflow could create no run of a DAG with a promise."""
    encoded = encode_deadline_alert(run_sla(hours=2))
    registered = [f"{one.__module__}.{one.__qualname__}" for one in StackPlugin.deadline_references]
    assert registered == [encoded["reference"]["__class_path"]]


def test_good_promises_pass(check: Check):
    """Several, for the run and for its tasks; callbacks that can be imported."""
    promises = 'run_sla(hours=2, on_miss="json.dumps"), run_sla(hours=1, name="soon"), '
    promises += 'task_sla("train", minutes=30, on_miss=dag)'
    assert str(check(DAG.format(promises=promises))).endswith("no violations")


@pytest.mark.parametrize(
    ("promises", "problem"),
    [
        (
            'task_sla("trian", minutes=30)',
            "DAG training: task_sla names the task 'trian', which the DAG does not have. "
            "Use one of: load, train.",
        ),
        (
            'task_sla("train", minutes=30), task_sla("train", minutes=45)',
            "DAG training: 2 SLAs of task train are called 'train'. Give each a name=.",
        ),
        (
            "run_sla(minutes=30), run_sla(hours=2)",
            "DAG training: 2 SLAs of the run are called 'run'. Give each a name=.",
        ),
        ("run_sla()", "of ten years at most, got 0 s. Set days, hours, minutes or seconds."),
        (
            "run_sla(hours=1e300)",
            "needs a time above zero and of ten years at most, got 3.6e+303 s.",
        ),
        ("run_sla(days=3651)", "ten years at most, got 3.15446e+08 s."),
        ('run_sla(hours=float("nan"))', "ten years at most, got nan s."),
        (r'run_sla(hours=1, name="a\0b")', r"must be text that can be printed, got 'a\x00b'."),
        (r'run_sla(hours=1, variable="\n")', "The variable of an SLA must be text that can be"),
        ('task_sla("", hours=1)', "task_sla needs the id of a task, got ''."),
        ('run_sla(hours=1, to=["nobody"])', "such as ml@example.org, got 'nobody'"),
        ("run_sla(hours=1, on_miss=mine)", "on_miss must be a function that other processes can"),
        (
            'run_sla(hours=1, on_miss="no.such.module")',
            "DAG training: on_miss='no.such.module' needs the module 'no.such', which cannot be "
            "imported. Put it into the plugins folder, or install it.",
        ),
        ('run_sla(hours=1, on_miss="json.JSONDecoder.decode")', "module 'json.JSONDecoder', which"),
        (
            "run_sla(hours=1, on_miss=DAG.test)",
            "that other processes can import, got 'airflow.sdk.",
        ),
        ("run_sla(hours=1, on_miss=timedelta(1).total_seconds)", "at its top level."),
        ("run_sla(hours=1, on_miss=lambda event: None)", "Put it into a module of the plugins"),
    ],
)
def test_bad_promise_is_an_import_error_with_the_remedy(check: Check, promises: str, problem: str):
    """One line: what was expected, found, and what to do."""
    assert problem in str(check(DAG.format(promises=promises)))


def test_event_comes_through_a_process_as_it_was():
    """Moments, lists of blocking tasks and all."""
    blocking = (Blocking("train[2]", "queued", "Queue cpu_train has no worker."),)
    misses = (
        Miss(1, "run", "", DUE, DUE + timedelta(hours=2), None, "running", "late", blocking),
        Miss(2, "load", "load", DUE, DUE, DUE + timedelta(seconds=1), "success"),
    )
    event = SlaEvent("training", "run é", misses, "http://airflow/dags/training/runs/run")
    assert from_json(to_json(event)) == event


def test_callback_is_found_by_its_path():
    """As an author names it."""
    assert find_callback("celery_stack.sla.event.to_json") is to_json


@pytest.mark.parametrize(
    ("finished", "now", "verdict"),
    [
        (None, 29, "pending"),
        (None, 30, "missed"),
        (30, 90, "met"),
        (31, 90, "missed"),
        (10, 11, "met"),
    ],
)
def test_verdict(finished: int | None, now: int, verdict: str):
    """When it finished counts, and only without that when somebody looks."""
    ended = None if finished is None else DUE + timedelta(minutes=finished)
    promised, at = DUE + timedelta(minutes=30), DUE + timedelta(minutes=now)
    assert judge(promised=promised, finished=ended, now=at) == verdict


def test_lengths_of_time_as_people_say_them():
    """Two units at most."""
    lengths = {0: "0 s", 59.6: "1 min 00 s", 3725: "1 h 02 min", 200000: "2 d 7 h", -5: "0 s"}
    assert {seconds: length(timedelta(seconds=seconds)) for seconds in lengths} == lengths
    assert story(DUE, None, DUE + timedelta(seconds=5)) == "It finished 5 s after it was due."


def test_declaring_loads_neither_the_database_nor_the_monitor():
    """A DAG file is parsed again and again, in workers too."""
    code = (
        "import sys; from celery_stack.sla import run_sla; run_sla(hours=1);"
        "print([m for m in ('airflow.models.dagrun', 'psycopg', 'celery_stack.sla.monitor') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

"""### A mixed load whose executions are counted outside Airflow

Params: how many `noop`, `nap` (10 s), `train` and `write` tasks.

Each execution appends a line to the ledger as it begins, and another as it is done. The ledger is a
folder of the host: no fault of a network or of a server reaches it. A `write` sends its rows one
by one, so that a fault finds it in the middle.
"""

import json
import os
import time
import uuid
from contextlib import contextmanager
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

COMMON = {"execution_timeout": timedelta(minutes=3)}
LINES = 5
CODE = 1  # an upgrade changes it


@contextmanager
def counted():
    """Tell the ledger that this execution began, and that it came to its end."""
    instance = get_current_context()["ti"]
    entry = {
        "run": instance.run_id,
        "task": instance.task_id,
        "number": instance.map_index,
        "try": instance.try_number,
        "host": os.uname().nodename,
        "id": uuid.uuid4().hex,
    }
    note({**entry, "event": "begun", "code": CODE})
    yield
    note({**entry, "event": "done", "code": CODE})


def note(entry):
    """Append one line, in one write: lines of several processes do not mix."""
    line = json.dumps({**entry, "at": time.time()}) + "\n"
    file = os.open(f"/opt/ledger/{entry['host']}.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def told_to_eat():
    """Tell whether the ledger asks for a task that takes all memory; it asks one."""
    try:
        os.unlink("/opt/ledger/eat")
    except FileNotFoundError:
        return False
    return True


def eat_all_memory():
    eaten = []
    while True:
        eaten.append(b"x" * 2**24)


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    max_active_tasks=400,
    params={"noop": 5, "nap": 2, "train": 1, "write": 2},
    default_args={
        "owner": "tests",
        "retries": 6,
        "retry_delay": timedelta(seconds=5),
        "max_retry_delay": timedelta(seconds=10),
    },
    doc_md=__doc__,
)
def mixed():
    @task(**COMMON)
    def plan(kind, params=None):
        return list(range(params[kind]))

    @task(**COMMON)
    def noop(number):
        with counted():
            pass

    @task(**COMMON)
    def nap(number):
        with counted():
            if told_to_eat():
                eat_all_memory()
            time.sleep(10)

    @task(queue="cpu_train", pool="cpu_train", **COMMON)
    def train(number):
        with counted():
            from upath import UPath

            from ml.artifacts import load_model
            from ml.load import reference_table
            from ml.train import train_and_save

            store, rows = UPath(os.environ["ARTIFACTS_URL"]), reference_table()
            saved = train_and_save(
                "logistic_regression", rows, store=store, seed=number, folds=2, repeats=1
            )
            load_model(saved.model_file.path, saved.model_file.sha256)

    @task(queue="pg_io", pool="pg_io", **COMMON)
    def write(number):
        from celery_stack.warehouse import write_rows

        run_id = get_current_context()["run_id"]

        def rows():
            for line in range(LINES):
                time.sleep(0.5)
                yield {"run_id": run_id, "number": number, "line": line, "value": number * line}

        with counted():
            write_rows(rows(), "chaos_effects", keys=["run_id", "number", "line"], chunk_rows=1)

    for step in (noop, nap, train, write):
        kind = step.function.__name__
        step.expand(number=plan.override(task_id=f"plan_{kind}")(kind))


mixed()

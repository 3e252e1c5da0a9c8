"""### What the stack is loaded with: many tasks, many waiting ones, and a large frame through XCom"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

SHORT = {"owner": "tests", "execution_timeout": timedelta(minutes=5)}
STOCK = {"schedule": None, "is_paused_upon_creation": False, "default_args": SHORT}


@dag(**STOCK, max_active_tasks=4096, max_active_runs=16, doc_md=__doc__)
def many():
    @task
    def numbers():
        return list(range(get_current_context()["dag_run"].conf["tasks"]))

    @task
    def work(number):
        return number % 2

    work.expand(number=numbers())


@dag(**STOCK, max_active_tasks=4096, max_active_runs=16, doc_md=__doc__)
def waiting():
    @task
    def work(number):
        return number % 2

    work.expand(number=list(range(1000)))


@dag(**STOCK, doc_md=__doc__)
def large_frame():
    @task
    def make():
        import numpy as np
        import pandas as pd

        mib = get_current_context()["dag_run"].conf["mib"]
        return pd.DataFrame(np.random.default_rng(0).random((mib * 2**20 // 80, 10))).add_prefix(
            "c"
        )

    @task
    def measure(frame):
        return int(frame.memory_usage(index=False).sum())

    measure(make())


many()
waiting()
large_frame()

"""### A: independent tasks that do nothing, in one run"""

import os
from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "benchmarks", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(max_active_tasks=1000, doc_md=__doc__, **STYLE)
def bench_independent():
    @task
    def no_op():
        pass

    for _ in range(int(os.environ["BENCH_INDEPENDENT"])):
        no_op()


bench_independent()

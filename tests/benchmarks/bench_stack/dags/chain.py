"""### B: tasks that do nothing, one after the other"""

import os
from datetime import timedelta

from airflow.sdk import chain, dag, task

OWNED = {"owner": "benchmarks", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(doc_md=__doc__, **STYLE)
def bench_chain():
    @task
    def no_op():
        pass

    chain(*[no_op() for _ in range(int(os.environ["BENCH_CHAIN"]))])


bench_chain()

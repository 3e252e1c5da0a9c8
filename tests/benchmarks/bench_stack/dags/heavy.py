"""### D: tasks that do nothing, in a file whose imports are heavy"""

import os
from datetime import timedelta

import pandas
from airflow.sdk import dag, task
from sklearn.ensemble import RandomForestClassifier

OWNED = {"owner": "benchmarks", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(max_active_tasks=1000, doc_md=__doc__, **STYLE)
def bench_heavy():
    @task
    def no_op():
        assert pandas.DataFrame is not None
        assert RandomForestClassifier is not None

    for _ in range(int(os.environ["BENCH_HEAVY"])):
        no_op()


bench_heavy()

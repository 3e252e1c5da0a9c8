"""### Scale-out: tasks that only take time"""

import os
import time
from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "benchmarks", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(max_active_tasks=1000, doc_md=__doc__, **STYLE)
def bench_sleepers():
    @task
    def sleep():
        time.sleep(float(os.environ["BENCH_SLEEP_S"]))

    for _ in range(int(os.environ["BENCH_SLEEPERS"])):
        sleep()


bench_sleepers()

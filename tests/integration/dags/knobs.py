"""### Every limit on how much runs at once

A task holds its place from the moment the scheduler queues it until it ends.
"""

from datetime import timedelta
from time import sleep

from airflow.sdk import dag, task

OWNED = {"owner": "tests", "execution_timeout": timedelta(minutes=1)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


# 2 runs at once, and 3 tasks at once in each of them.
@dag(max_active_runs=2, max_active_tasks=3, doc_md=__doc__, **STYLE)
def knobs():
    @task
    def wide(number: int):
        sleep(0.3)

    @task(max_active_tis_per_dag=2)  # of this task in all runs together
    def narrow(number: int):
        sleep(0.3)

    @task(queue="pg_io", pool="pg_io", pool_slots=2)  # of its 4 slots, whatever else uses the pool
    def heavy(number: int):
        sleep(0.3)

    (
        wide.expand(number=[1, 2, 3, 4])
        >> narrow.expand(number=[1, 2, 3])
        >> heavy.expand(number=[1, 2, 3])
    )


knobs()

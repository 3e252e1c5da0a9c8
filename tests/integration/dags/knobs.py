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
        sleep(1)

    @task(max_active_tis_per_dag=2)  # of this task in all runs together
    def narrow(number: int):
        sleep(1)

    @task(pool="pg_io", pool_slots=2)  # of its 4 slots, whatever else uses the pool
    def heavy(number: int):
        sleep(1)

    (
        wide.expand(number=[1, 2, 3, 4])
        >> narrow.expand(number=[1, 2, 3])
        >> heavy.expand(number=[1, 2, 3])
    )


# One at a time: of those that wait, the one with the greatest weight goes first.
@dag(max_active_tasks=1, doc_md=__doc__, **STYLE)
def priorities():
    @task
    def work():
        pass

    for weight in (1, 100, 10):
        work.override(task_id=f"weight_{weight}", priority_weight=weight)()


# More tasks than PARALLELISM, which counts over all DAGs.
@dag(max_active_tasks=100, doc_md=__doc__, **STYLE)
def crowd():
    @task
    def work(number: int):
        sleep(4)  # longer than a place of an earlier task may stay taken after its end

    work.expand(number=list(range(16)))


knobs()
priorities()
crowd()

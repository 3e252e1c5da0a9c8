"""### C: one task that does nothing"""

from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "benchmarks", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(doc_md=__doc__, **STYLE)
def bench_single():
    @task
    def no_op():
        pass

    no_op()


bench_single()

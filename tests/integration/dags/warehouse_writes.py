"""### Many mapped writes to the warehouse at once, through the pool"""

from datetime import timedelta

from airflow.sdk import dag, task

LIMITS = {"execution_timeout": timedelta(minutes=1)}


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    max_active_tasks=100,
    default_args={"owner": "tests"},
    doc_md=__doc__,
)
def warehouse_writes():
    @task(**LIMITS)
    def plan(params=None):
        return list(range(params["writes"]))

    @task(queue="pg_io", pool="pg_io", **LIMITS)
    def write(number: int):
        from time import sleep

        from celery_stack.warehouse import write_rows

        def rows():
            for line in range(5):
                sleep(0.1)  # its session stays open, so that writers meet
                yield {"writer": number, "line": line}

        write_rows(rows(), "many_writes", keys=["writer", "line"])

    write.expand(number=plan())


warehouse_writes()

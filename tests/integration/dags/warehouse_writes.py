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

    @task(pool="pg_io", **LIMITS)
    def write(number: int):
        from celery_stack.warehouse import write_rows

        rows = [{"writer": number, "line": line} for line in range(5)]
        write_rows(rows, "many_writes", keys=["writer", "line"])

    write.expand(number=plan())


warehouse_writes()

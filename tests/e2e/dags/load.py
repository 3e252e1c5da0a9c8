"""### As many tasks at once as a test asks for, each as long as it asks for

Params: `count` tasks of `seconds` each.
"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    max_active_runs=4,
    max_active_tasks=64,
    params={"count": 40, "seconds": 1},
    default_args={"owner": "tests"},
    doc_md=__doc__,
)
def load():
    @task(execution_timeout=timedelta(minutes=1))
    def plan(params=None):
        return list(range(params["count"]))

    @task(
        retries=2,
        retry_delay=timedelta(seconds=2),
        max_retry_delay=timedelta(seconds=5),
        execution_timeout=timedelta(minutes=10),
    )
    def work(number, params=None):
        import time

        print(f"task number {number} begins")  # noqa: T201
        time.sleep(params["seconds"])
        print(f"task number {number} is done")  # noqa: T201

    work.expand(number=plan())


load()

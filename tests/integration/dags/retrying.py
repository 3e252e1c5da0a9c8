"""### A task that fails until its retries are used up"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, is_paused_upon_creation=False, default_args={"owner": "tests"}, doc_md=__doc__)
def retrying():
    @task(
        retries=3,
        retry_delay=timedelta(seconds=1),
        max_retry_delay=timedelta(seconds=4),
        execution_timeout=timedelta(minutes=1),
    )
    def fail():
        raise ConnectionError("this task always fails")

    fail()


retrying()

"""### Failures that heal and one that does not, under the stack's retry policy"""

from datetime import timedelta

from airflow.sdk import dag, task

LIMITS = {"execution_timeout": timedelta(minutes=1)}


@dag(schedule=None, is_paused_upon_creation=False, default_args={"owner": "tests"}, doc_md=__doc__)
def retries():
    @task(retries=1, retry_delay=timedelta(seconds=1), **LIMITS)
    def heal(sibling: int, ti=None):
        if ti.try_number == 1:
            raise ConnectionError(f"sibling {sibling} lost its connection, this once")

    @task(
        retries=3, retry_delay=timedelta(seconds=1), max_retry_delay=timedelta(seconds=3), **LIMITS
    )
    def lose():
        raise ConnectionError("this task always fails")

    @task(retries=3, retry_delay=timedelta(seconds=1), **LIMITS)
    def refuse():
        raise ValueError("this input will not get better")

    heal.expand(sibling=[0, 1, 2])
    lose()
    refuse()


retries()

"""### Refused by the policies: why the task must not be retried is left open"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def no_retries_without_reason():
    @task(retries=0, execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


no_retries_without_reason()

"""### Refused by the policies: its page in the UI would be empty"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"})
def missing_docstring():
    @task(execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


missing_docstring()

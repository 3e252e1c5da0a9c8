"""### Refused by the policies: the task could hold its slot for ever"""

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def missing_execution_timeout():
    @task
    def compute():
        pass

    compute()


missing_execution_timeout()

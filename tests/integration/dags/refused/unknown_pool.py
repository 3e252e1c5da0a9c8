"""### Refused by the policies: the pool is not declared"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def unknown_pool():
    @task(pool="gpu", execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


unknown_pool()

"""### Refused by the policies: nobody serves its queue"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def unknown_queue():
    @task(queue="gpu", execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


unknown_queue()

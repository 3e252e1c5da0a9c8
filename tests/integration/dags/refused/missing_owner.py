"""### Refused by the policies: nobody to ask"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, doc_md=__doc__)
def missing_owner():
    @task(execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


missing_owner()

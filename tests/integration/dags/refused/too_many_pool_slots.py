"""### Refused by the policies: the task would wait for slots that the pool never has"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def too_many_pool_slots():
    @task(queue="pg_io", pool="pg_io", pool_slots=5, execution_timeout=timedelta(minutes=1))
    def write():
        pass

    write()


too_many_pool_slots()

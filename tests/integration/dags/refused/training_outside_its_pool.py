"""### Refused by the policies: a training backlog could use up all of PARALLELISM"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "tests"}, doc_md=__doc__)
def training_outside_its_pool():
    @task(queue="cpu_train", execution_timeout=timedelta(minutes=1))
    def train():
        pass

    train()


training_outside_its_pool()

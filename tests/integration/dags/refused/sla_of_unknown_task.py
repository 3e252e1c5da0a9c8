"""### Refused by the policies: it promises a task that it does not have"""

from datetime import timedelta

from airflow.sdk import dag, task

from celery_stack.sla import task_sla


@dag(
    schedule=None,
    default_args={"owner": "tests"},
    doc_md=__doc__,
    deadline=[task_sla("compte", minutes=30)],
)
def sla_of_unknown_task():
    @task(execution_timeout=timedelta(minutes=1))
    def compute():
        pass

    compute()


sla_of_unknown_task()

"""### A task that is late"""

from datetime import timedelta

from airflow.sdk import dag, task

from celery_stack.sla import task_sla


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    doc_md=__doc__,
    default_args={"owner": "tests", "execution_timeout": timedelta(minutes=2)},
    deadline=[task_sla("slow", seconds=10, to=["team@example.org"])],
)
def late():
    @task
    def slow():
        import time

        time.sleep(40)

    slow()


late()

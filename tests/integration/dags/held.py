"""### Tasks that something holds, until the file that the run names exists"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import dag, get_current_context, task

SHORT = {"owner": "tests", "execution_timeout": timedelta(minutes=5)}
STOCK = {"schedule": None, "is_paused_upon_creation": False, "default_args": SHORT}


def wait_for_gate():
    import time
    from pathlib import Path

    gate = Path(get_current_context()["dag_run"].conf["gate"])
    while not gate.exists():
        time.sleep(0.2)


@dag(**STOCK, doc_md=__doc__)
def held():
    @task(
        queue="pg_io",
        pool="pg_io",
        pool_slots=2,
        max_active_tis_per_dagrun=1,
        retry_delay=timedelta(seconds=1),
    )
    def hold(_number):
        wait_for_gate()

    @task
    def after():
        pass

    @task(queue="pg_io", pool="pg_io", pool_slots=3, priority_weight=-1)
    def want_pool():
        pass

    @task(max_active_tis_per_dag=1)
    def alone(_number):
        wait_for_gate()

    @task(retries=3, retry_delay=timedelta(minutes=5))
    def fail():
        raise ConnectionError("this task always fails")

    hold.expand(_number=[0, 1]) >> after()
    want_pool()
    alone.expand(_number=[0, 1])
    fail()
    DateTimeSensorAsync(task_id="defer", target_time=datetime(2100, 1, 1, tzinfo=UTC))


@dag(**STOCK, max_active_runs=1, max_active_tasks=3, doc_md=__doc__)
def held_training():
    @task(queue="cpu_train", pool="cpu_train")
    def train(_number):
        wait_for_gate()

    train.expand(_number=[0, 1, 2, 3])


@dag(**STOCK | {"is_paused_upon_creation": True}, doc_md=__doc__)
def held_paused():
    @task
    def run():
        pass

    run()


held()
held_training()
held_paused()

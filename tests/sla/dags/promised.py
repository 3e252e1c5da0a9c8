"""### Promises that are kept and broken in every way

What a run waits for is the file that its conf names as `gate`.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

from celery_stack.sla import run_sla, task_sla

SHORT = {"owner": "tests", "execution_timeout": timedelta(minutes=5)}
STOCK = {
    "schedule": None,
    "is_paused_upon_creation": False,
    "default_args": SHORT,
    "doc_md": __doc__,
}


def wait_for_gate():
    import time
    from pathlib import Path

    gate = Path(get_current_context()["dag_run"].conf["gate"])
    print("waiting for the gate")  # noqa: T201 - the end of its log
    while not gate.exists():
        time.sleep(0.2)


@task
def slow():
    wait_for_gate()


@task
def quick():
    pass


@dag(**STOCK, deadline=[run_sla(seconds=10), task_sla("slow", seconds=10)])
def late():
    slow() >> quick()


@dag(**STOCK, deadline=[task_sla("train", seconds=10, to=["ml@example.org"])])
def without_worker():
    @task(queue="cpu_train", pool="cpu_train")
    def train():
        pass

    train()


@dag(**STOCK, deadline=[task_sla("wants", seconds=20)])
def waiting_for_pool():
    @task(queue="pg_io", pool="pg_io", pool_slots=4, priority_weight=10)
    def holds():
        wait_for_gate()

    @task(queue="pg_io", pool="pg_io")
    def wants():
        pass

    holds()
    wants()


@dag(**STOCK, deadline=[run_sla(seconds=15)])
def failing():
    @task(retries=0)
    def fail():
        """Not worth a retry: it fails always."""
        raise ValueError("the reason in the log")

    fail() >> quick()


@dag(**STOCK, deadline=[run_sla(seconds=2)])
def unseen():
    slow()


@dag(**STOCK, deadline=[run_sla(minutes=10), task_sla("quick", minutes=5)])
def in_time():
    quick()


@dag(**STOCK, deadline=[task_sla("quick", minutes=2)])
def goes_on():
    quick() >> slow()


@dag(**STOCK | {"is_paused_upon_creation": True}, deadline=[run_sla(seconds=8)])
def on_pause():
    quick()


@dag(**STOCK, deadline=[run_sla(hours=2, variable="sla_of_changed")])
def changed():
    slow()


@dag(**STOCK, deadline=[run_sla(minutes=5)])
def seen_late():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=5)])
def without_scheduler():
    quick()


@dag(**STOCK, deadline=[run_sla(seconds=5)])
def without_triggerer():
    slow()


@dag(**STOCK, deadline=[task_sla("slow", minutes=5)])
def cleared():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4)])
def cut_off():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4, to=["gone@example.org", "team@example.org"])])
def refused():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4, to=["greylisting@example.org"])])
def greylisted():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4)])
def server_down():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4)])
def over_starttls():
    slow()


@dag(**STOCK, deadline=[run_sla(seconds=4)])
def over_tls():
    slow()


@dag(
    **STOCK
    | {
        "schedule": CronTriggerTimetable("* * * * *", timezone="UTC"),
        "is_paused_upon_creation": True,
    },
    catchup=False,
    deadline=[run_sla(hours=2, variable="sla_of_every_minute")],
)
def every_minute():
    quick()


@dag(
    **STOCK | {"schedule": CronTriggerTimetable("0 0 * * *", timezone="UTC")},
    catchup=False,
    max_active_runs=10,
    deadline=[run_sla(minutes=10)],
)
def daily():
    quick()


for make in (
    late,
    without_worker,
    waiting_for_pool,
    failing,
    unseen,
    in_time,
    goes_on,
    on_pause,
    changed,
    seen_late,
    without_scheduler,
    without_triggerer,
    cleared,
    cut_off,
    refused,
    greylisted,
    server_down,
    over_starttls,
    over_tls,
    every_minute,
    daily,
):
    make()

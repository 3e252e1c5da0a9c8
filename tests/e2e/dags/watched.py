"""### What the tests of monitoring watch: a full pool, a retry, a late task of which nobody is told, a file that never comes, a task to be lost"""

from datetime import timedelta

from airflow.sdk import dag, task

from celery_stack.file_wait import FileWait
from celery_stack.sla import task_sla

COMMON = {
    "schedule": None,
    "is_paused_upon_creation": False,
    "default_args": {
        "owner": "tests",
        "execution_timeout": timedelta(minutes=10),
        "retry_delay": timedelta(seconds=1),
    },
    "doc_md": __doc__,
}


def rest(seconds):
    import time

    time.sleep(seconds)


@dag(**COMMON, params={"seconds": 45})
def watched_pool():
    """Twice as many tasks as `pg_io` has slots."""

    @task(queue="pg_io", pool="pg_io")
    def hold(number, params=None):
        rest(params["seconds"])

    hold.expand(number=list(range(8)))


@dag(**COMMON)
def watched_retry():
    @task
    def stumble(ti=None):
        if ti.try_number == 1:
            raise RuntimeError("meant to fail once")

    stumble()


@dag(**COMMON, deadline=[task_sla("slow", seconds=2)])
def watched_sla():
    """Names nobody, and neither does SLA_EMAIL_TO: the mail cannot be delivered."""

    @task
    def slow():
        rest(15)

    slow()


@dag(**COMMON)
def watched_wait():
    """Deferred for longer than the half minute after which Airflow counts anew."""
    FileWait(
        task_id="wait",
        look=lambda: "/opt/airflow/landing/never/*",
        poke_interval=5,
        timeout=60,
        soft_fail=True,
    )


@dag(**COMMON)
def watched_loss():
    """Its worker is killed; the retry is far off."""

    @task(queue="cpu_train", pool="cpu_train", retries=1, retry_delay=timedelta(hours=1))
    def train():
        rest(500)

    train()


@dag(**COMMON | {"schedule": "* * * * *", "is_paused_upon_creation": True}, catchup=False)
def watched_schedule():
    """A run every minute, once it is unpaused: how late a run starts is told of scheduled ones alone."""

    @task
    def tick():
        pass

    tick()


for one in (watched_pool, watched_retry, watched_sla, watched_wait, watched_loss, watched_schedule):
    one()

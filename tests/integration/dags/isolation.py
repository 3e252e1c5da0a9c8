"""### Loads that must not stand in each other's way"""

from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "tests", "execution_timeout": timedelta(minutes=5)}
STYLE = {"schedule": None, "is_paused_upon_creation": False, "default_args": OWNED}


@dag(doc_md=__doc__, **STYLE)
def errand():
    @task
    def run():
        pass

    run()


@dag(
    max_active_tasks=100, params={"tasks": 6, "release": "", "busy": False}, doc_md=__doc__, **STYLE
)
def training_backlog():
    @task
    def plan(params=None):
        return list(range(params["tasks"]))

    @task(queue="cpu_train", pool="cpu_train")
    def train(number: int, params=None):
        """Train, or only hold the slot, until the file `release` is there."""
        from pathlib import Path
        from time import sleep

        while not Path(params["release"]).exists():
            if params["busy"]:
                sum(range(1_000_000))
            else:
                sleep(0.2)

    train.expand(number=plan())


@dag(max_active_tasks=100, params={"tasks": 24, "seconds": 1}, doc_md=__doc__, **STYLE)
def jam():
    @task
    def plan(params=None):
        return list(range(params["tasks"]))

    @task
    def work(number: int, params=None):
        from time import sleep

        sleep(params["seconds"])

    work.expand(number=plan())


@dag(doc_md=__doc__, **STYLE)
def writers():
    @task(pool="pg_io")
    def write(number: int):
        pass

    write.expand(number=[1, 2, 3, 4])


errand()
training_backlog()
jam()
writers()

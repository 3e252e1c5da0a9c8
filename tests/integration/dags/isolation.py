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


@dag(max_active_tasks=100, params={"tasks": 24, "seconds": 1, "gates": ""}, doc_md=__doc__, **STYLE)
def jam():
    @task
    def plan(params=None):
        return list(range(params["tasks"]))

    @task
    def work(number: int, params=None):
        """Hold the slot for some seconds, or until the folder `gates` has a file of this number."""
        from pathlib import Path
        from time import sleep

        if not params["gates"]:
            sleep(params["seconds"])
        while params["gates"] and not Path(params["gates"], str(number)).exists():
            sleep(0.1)

    work.expand(number=plan())


@dag(doc_md=__doc__, **STYLE)
def writers():
    @task(queue="pg_io", pool="pg_io")
    def write(number: int):
        pass

    write.expand(number=[1, 2, 3, 4])


# Heavier than a jam, and published after it.
@dag(doc_md=__doc__, **STYLE)
def urgent():
    @task(queue="pg_io", pool="pg_io", priority_weight=100)
    def write():
        pass

    @task(priority_weight=100)
    def run():
        pass

    write()
    run()


errand()
training_backlog()
jam()
writers()
urgent()

"""### Tasks whose executions are counted outside Airflow, each waiting for the gate that the run names"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    max_active_tasks=64,
    default_args={"owner": "tests", "execution_timeout": timedelta(minutes=5)},
    doc_md=__doc__,
)
def counted():
    @task
    def numbers():
        return list(range(get_current_context()["dag_run"].conf["tasks"]))

    @task
    def work(number):
        import os
        import time
        from pathlib import Path

        folder = Path(get_current_context()["dag_run"].conf["folder"])
        line = os.open(folder / "executions", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(line, f"{number}\n".encode())
        os.close(line)
        while not (folder / "gate").exists():
            time.sleep(0.2)

    work.expand(number=numbers())


counted()

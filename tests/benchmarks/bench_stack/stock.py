"""Airflow as its official Compose file configures it, on the Postgres and Redis of a run without Docker.

Its tasks run under an interpreter that has the same packages, except this project: no policy,
plugin or executor of ours is in reach.

Left out, each to the advantage of the official configuration: the health checks, which start a
Python process every few seconds, and the log servers, which one folder of logs makes needless.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sysconfig
import venv
from pathlib import Path

from compose.home import REPO, as_folder
from compose.programs import PROCESS_NAME, Plan, Program
from compose.secret_files import read_secret
from tests.benchmarks.bench_stack.profiles import STOCK_SLOTS

ENVIRONMENT = REPO / ".bench" / "stock-python"
AIRFLOW = [str(ENVIRONMENT / "bin" / "python"), "-m", "airflow"]


def make_interpreter() -> None:
    """Make the interpreter of the stock stack: this one's packages by link, without this project."""
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    version = packages.relative_to(packages.parents[2])  # lib/python3.13/site-packages
    own = _own_entries()
    for entry in packages.iterdir():
        if entry.name not in own:
            os.symlink(entry, ENVIRONMENT / version / entry.name)


def _own_entries() -> set[str]:
    """Name what this project's installation put among the packages."""
    files = importlib.metadata.files("airflow-celery-stack") or []
    return {file.parts[0] for file in files}


def stock_programs(plan: Plan) -> list[Program]:
    """Give the services of the official Compose file; Flower is not among them by default."""
    env = stock_environment(plan)
    address = ["--host", "127.0.0.1", "--port", str(plan.ports["api"])]
    worker = ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{PROCESS_NAME}@%h"]
    return [
        Program("api-server", [*AIRFLOW, "api-server", *address], env),
        Program("scheduler", [*AIRFLOW, "scheduler"], env),
        Program("dag-processor", [*AIRFLOW, "dag-processor"], env),
        Program("triggerer", [*AIRFLOW, "triggerer", "--skip-serve-logs"], env),
        Program("worker", [*AIRFLOW, *worker], env, processes=plan.scale.get("worker", 1)),
    ]


def stock_environment(plan: Plan) -> dict[str, str]:
    """Give the official Compose file's settings, with the addresses of `plan`.

    Source: `x-airflow-common` in docs/howto/docker-compose/docker-compose.yaml of Airflow. The
    secrets there come from a configuration file that its services share.
    """
    secrets = plan.home.secrets
    metadata = read_secret(secrets / "control/sql_alchemy_conn")
    official = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata,
        "AIRFLOW__CELERY__RESULT_BACKEND": metadata.replace("postgresql+psycopg2:", "db+postgresql:", 1),
        "AIRFLOW__CELERY__BROKER_URL": read_secret(secrets / "control/broker_url"),
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "true",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{plan.ports['api']}/execution/",
        "AIRFLOW__API_AUTH__JWT_SECRET": read_secret(secrets / "control/jwt_secret"),
        "AIRFLOW__API__SECRET_KEY": read_secret(secrets / "control/api_secret_key"),
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": plan.env.get("WORKER_CONCURRENCY", str(STOCK_SLOTS)),
    }  # fmt: skip
    return official | _folders(plan)


def _folders(plan: Plan) -> dict[str, str]:
    folders = {
        "AIRFLOW_HOME": plan.home.airflow,
        "AIRFLOW_CONFIG": plan.home.airflow / "airflow.cfg",
        "AIRFLOW__CORE__DAGS_FOLDER": as_folder(plan.settings.DAGS_FOLDER),
        "AIRFLOW__CORE__PLUGINS_FOLDER": plan.home.airflow / "plugins",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": plan.home.task_logs,
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": plan.home.root
        / "logs"
        / "dag-processor",
    }
    return {name: str(path) for name, path in folders.items()}

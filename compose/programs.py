"""What runs without Docker: each program's command, environment, stop signal and patience."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from shlex import quote

from celery_stack.queues import Declarations
from celery_stack.settings import Settings, read_shared_settings
from compose.home import REPO, StackHome, artifacts_url
from compose.servers import postgres_command, redis_command

PROCESS_NAME = "{process}"  # in a command: the name of the copy that runs it
AIRFLOW = [sys.executable, "-m", "airflow"]
SECRET_OPTIONS = {
    "control": {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "control/sql_alchemy_conn",
        "AIRFLOW__CORE__FERNET_KEY": "control/fernet_key",
        "AIRFLOW__API_AUTH__JWT_SECRET": "control/jwt_secret",
        "AIRFLOW__API__SECRET_KEY": "control/api_secret_key",
        "AIRFLOW__CELERY__BROKER_URL": "control/broker_url",
        "AIRFLOW__CELERY__RESULT_BACKEND": "control/result_backend",
    },
    "worker": {
        "AIRFLOW__API__SECRET_KEY": "worker/api_secret_key",
        "AIRFLOW__CELERY__BROKER_URL": "worker/broker_url",
        "AIRFLOW__CELERY__RESULT_BACKEND": "worker/result_backend",
    },
    "flower": {
        "AIRFLOW__CELERY__BROKER_URL": "flower/broker_url",
        "AIRFLOW__CELERY__RESULT_BACKEND": "flower/result_backend",
        "AIRFLOW__CELERY__FLOWER_BASIC_AUTH": "flower/basic_auth",
    },
}
# Numeric libraries else start a thread per core in every slot.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


@dataclass(frozen=True)
class Program:
    """One supervised program; `processes` copies of it run under names that end in 1, 2, …"""

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_wait_s: int = 20
    processes: int = 1


@dataclass(frozen=True)
class Plan:
    """Everything a start decides: the programs are derived from it alone."""

    home: StackHome
    env: Mapping[str, str]
    settings: Settings
    declarations: Declarations
    ports: Mapping[str, int]
    scale: Mapping[str, int]


def servers(plan: Plan) -> list[Program]:
    """Give Postgres and Redis."""
    return [
        Program(
            "postgres",
            postgres_command(plan.home, plan.ports["postgres"]),
            stop_signal="INT",  # fast shutdown: do not wait for clients
        ),
        Program("redis", redis_command(plan.home)),
    ]


def airflow_programs(plan: Plan) -> list[Program]:
    """Give Airflow's components, Flower, and one program per worker pool."""
    control = airflow_environment(plan, "control")
    api = ["api-server", "--host", "127.0.0.1", "--port", str(plan.ports["api"])]
    return [
        Program("api-server", [*AIRFLOW, *api], control),
        Program("scheduler", [*AIRFLOW, "scheduler"], control),
        Program("dag-processor", [*AIRFLOW, "dag-processor"], control),
        Program("triggerer", [*AIRFLOW, "triggerer", "--skip-serve-logs"], control),
        *(_worker(plan, name) for name in plan.declarations.workers if plan.scale.get(name, 1)),
        _flower(plan),
    ]


def _worker(plan: Plan, name: str) -> Program:
    worker = plan.declarations.workers[name]
    options = ["--queues", ",".join(worker.queues), "--concurrency", str(worker.concurrency)]
    # Logs are read from the shared folder: no worker needs a log server, or a port for it.
    quiet = ["--skip-serve-logs", "--without-mingle", "--without-gossip"]
    identity = ["--celery-hostname", f"{PROCESS_NAME}@%h"]
    threads = plan.env.get(f"{worker.prefix}_THREADS", "1")
    return Program(
        name,
        [*AIRFLOW, "celery", "worker", *options, *quiet, *identity],
        airflow_environment(plan, "worker") | dict.fromkeys(THREAD_LIMITS, threads),
        stop_wait_s=plan.settings.WORKER_STOP_TIMEOUT_S,
        processes=plan.scale.get(name, 1),
    )


def _flower(plan: Plan) -> Program:
    options = ["--hostname", "127.0.0.1", "--port", str(plan.ports["flower"])]
    env = airflow_environment(plan, "flower")
    return Program("flower", [*AIRFLOW, "celery", "flower", *options], env)


def airflow_environment(plan: Plan, group: str) -> dict[str, str]:
    """Give the environment of an Airflow process that reads the secrets of `group`.

    Secrets stay in their files: the environment only says how to read them.
    """
    secrets = plan.home.secrets
    paths = {
        "AIRFLOW_HOME": plan.home.airflow,
        "AIRFLOW_CONFIG": plan.home.airflow / "airflow.cfg",
        "AIRFLOW__CORE__DAGS_FOLDER": REPO / (plan.settings.DAGS_FOLDER or "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": REPO / "plugins",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": plan.home.task_logs,
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": plan.home.root
        / "logs"
        / "dag-processor",
    }
    url = f"http://127.0.0.1:{plan.ports['api']}"
    artifacts = artifacts_url(plan.home, plan.env)
    commands = {
        f"{option}_CMD": f"cat {quote(str(secrets / name))}"
        for option, name in SECRET_OPTIONS[group].items()
    }
    return {
        **_user_variables(plan),
        **read_shared_settings(REPO / "compose/airflow.env", plan.env),
        **{name: str(path) for name, path in paths.items()},
        **commands,
        **(_connections_from(secrets / "worker/connections.json") if group == "worker" else {}),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"{artifacts}/xcom",
        "ARTIFACTS_URL": artifacts,
        "CODE_VERSION": plan.env.get("CODE_VERSION") or _checkout_version(),
        "LANDING_DIR": plan.env.get("LANDING_DIR", str(plan.home.landing)),
        "PYTHONUNBUFFERED": "1",
    }


@cache
def _checkout_version() -> str:
    """Give the checkout's commit, marked if files differ from it; "unknown" outside git."""
    command = ["git", "-C", str(REPO), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _connections_from(file: Path) -> dict[str, str]:
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    return {
        "AIRFLOW__SECRETS__BACKEND": backend,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(file)}),
    }


def _user_variables(plan: Plan) -> dict[str, str]:
    """Give what the user set in `.env` or the shell for the pipeline and the policies."""
    names = {*Settings.model_fields, *plan.declarations.variables()}
    return {k: v for k, v in plan.env.items() if k in names or k.startswith(("ML_", "CPU_TRAIN_"))}

"""What runs without Docker: each program's command, environment, stop signal and patience."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from celery_stack.queues import Declarations
from celery_stack.settings import Settings, read_shared_settings
from compose.commands import (
    THREAD_LIMITS,
    api_server_command,
    connections_from,
    dag_processor_command,
    flower_command,
    scheduler_command,
    secret_commands,
    sla_command,
    triggerer_command,
    warm_workers,
    worker_command,
)
from compose.home import REPO, StackHome, artifacts_url, as_folder, landing_folder
from compose.servers import postgres_command, redis_command

COMMAND_LINE = "command-line"  # no program: the environment of `make airflow`
PROCESS_NAME = "{process}"  # in a command: the name of the copy that runs it


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
    # Their callbacks and triggers send mail.
    mailing = control | connections_from(plan.home.secrets / "smtp/connections.json")
    api_server = api_server_command(host="127.0.0.1", port=plan.ports["api"])
    flower_url = {"FLOWER_URL": f"http://127.0.0.1:{plan.ports['flower']}"}
    return [
        Program("api-server", api_server, control | flower_url),
        Program("scheduler", scheduler_command(), control),
        Program("dag-processor", dag_processor_command(), mailing),
        Program("triggerer", triggerer_command(), mailing),
        _sla(plan),
        *(_worker(plan, name) for name in plan.declarations.workers if plan.scale.get(name, 1)),
        _flower(plan),
    ]


def command_line_environment(plan: Plan) -> dict[str, str]:
    """Give the environment of Airflow commands: the control group's, and the connections of tasks."""
    connections = connections_from(plan.home.secrets / "worker/connections.json")
    return airflow_environment(plan, "control") | connections


def _worker(plan: Plan, name: str) -> Program:
    worker = plan.declarations.workers[name]
    threads = plan.env.get(f"{worker.prefix}_THREADS", "1")
    return Program(
        name,
        worker_command(worker, name=PROCESS_NAME),
        airflow_environment(plan, "worker")
        | dict.fromkeys(THREAD_LIMITS, threads)
        | warm_workers(plan.declarations),
        stop_wait_s=plan.settings.WORKER_STOP_TIMEOUT_S,
        processes=plan.scale.get(name, 1),
    )


def _sla(plan: Plan) -> Program:
    mailing = connections_from(plan.home.secrets / "smtp/connections.json")
    return Program("sla", sla_command(), airflow_environment(plan, "sla") | mailing)


def _flower(plan: Plan) -> Program:
    command = flower_command(host="127.0.0.1", port=plan.ports["flower"])
    return Program("flower", command, airflow_environment(plan, "flower"))


def airflow_environment(plan: Plan, group: str) -> dict[str, str]:
    """Give the environment of an Airflow process that reads the secrets of `group`.

    Secrets stay in their files: the environment only says how to read them.
    """
    secrets = plan.home.secrets
    paths = {
        "AIRFLOW_HOME": plan.home.airflow,
        "AIRFLOW_CONFIG": plan.home.airflow / "airflow.cfg",
        "AIRFLOW__CORE__DAGS_FOLDER": as_folder(plan.settings.DAGS_FOLDER or "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": REPO / "plugins",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": plan.home.task_logs,
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": plan.home.root
        / "logs"
        / "dag-processor",
    }
    url = f"http://127.0.0.1:{plan.ports['api']}"
    artifacts = artifacts_url(plan.home, plan.env)
    return {
        **_user_variables(plan),
        **read_shared_settings(REPO / "compose/airflow.env", plan.env),
        **{name: str(path) for name, path in paths.items()},
        **secret_commands(secrets, group),
        **(connections_from(secrets / "worker/connections.json") if group == "worker" else {}),
        "AIRFLOW__API__BASE_URL": plan.settings.BASE_URL or url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"{artifacts}/xcom",
        "ARTIFACTS_URL": artifacts,
        "CODE_VERSION": plan.env.get("CODE_VERSION") or _checkout_version(),
        "LANDING_DIR": str(landing_folder(plan.home, plan.env)),
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


def _user_variables(plan: Plan) -> dict[str, str]:
    """Give what the user set in `.env` or the shell for the pipeline and the policies."""
    names = {*Settings.model_fields, *plan.declarations.variables()}
    return {k: v for k, v in plan.env.items() if k in names or k.startswith(("ML_", "CPU_TRAIN_"))}

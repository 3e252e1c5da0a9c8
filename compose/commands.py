"""What both ways of running share: how each Airflow process is started and which secrets it reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shlex import quote

from celery_stack.queues import Declarations, Worker

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
    # The monitor of SLAs: a role of its own, which reads parts of the metadata. It asks workers over the broker.
    "sla": {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sla/sql_alchemy_conn",
        "AIRFLOW__CELERY__BROKER_URL": "sla/broker_url",
    },
    "flower": {
        "AIRFLOW__CELERY__BROKER_URL": "flower/broker_url",
        "AIRFLOW__CELERY__RESULT_BACKEND": "flower/result_backend",
        "AIRFLOW__CELERY__FLOWER_BASIC_AUTH": "flower/basic_auth",
    },
}
# Numeric libraries else start a thread per core in every slot.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")


def secret_commands(secrets: Path, group: str) -> dict[str, str]:
    """Give the variables by which a process of `group` reads its secrets out of their files."""
    return {
        f"{option}_CMD": f"cat {quote(str(secrets / name))}"
        for option, name in SECRET_OPTIONS[group].items()
    }


def connections_from(file: Path) -> dict[str, str]:
    """Give the variables by which a process takes connections from `file`."""
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    return {
        "AIRFLOW__SECRETS__BACKEND": backend,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(file)}),
    }


def api_server_command(*, host: str, port: int) -> list[str]:
    """Give the command of the api-server."""
    return [*AIRFLOW, "api-server", "--host", host, "--port", str(port)]


def scheduler_command() -> list[str]:
    """Give the command of the scheduler."""
    return [*AIRFLOW, "scheduler"]


def dag_processor_command() -> list[str]:
    """Give the command of the DAG processor."""
    return [*AIRFLOW, "dag-processor"]


def triggerer_command() -> list[str]:
    """Give the command of the triggerer; its logs are read from the shared folder."""
    return [*AIRFLOW, "triggerer", "--skip-serve-logs"]


def sla_command() -> list[str]:
    """Give the command of the monitor of SLAs."""
    return [sys.executable, "-m", "celery_stack.sla"]


def warm_workers(declarations: Declarations) -> dict[str, str]:
    """Give the variables by which a worker runs the tasks of our queues under the warm supervisor."""
    coordinators = {"warm": {"classpath": "celery_stack.warm.coordinator.WarmCoordinator"}}
    return {
        "AIRFLOW__SDK__COORDINATORS": json.dumps(coordinators),
        "AIRFLOW__SDK__QUEUE_TO_COORDINATOR": json.dumps(
            dict.fromkeys(declarations.queues, "warm")
        ),
    }


def worker_command(worker: Worker, *, name: str) -> list[str]:
    """Give the command of a process of the worker pool `worker`.

    Args:
        name: Celery's name for it, before the `@` and the host.
    """
    options = ["--queues", ",".join(worker.queues), "--concurrency", str(worker.concurrency)]
    # Logs are read from the shared folder: no worker needs a log server, or a port for it.
    quiet = ["--skip-serve-logs", "--without-mingle", "--without-gossip"]
    identity = ["--celery-hostname", f"{name}@%h"]
    return [*AIRFLOW, "celery", "worker", *options, *quiet, *identity]


def flower_command(*, host: str, port: int) -> list[str]:
    """Give the command of Flower, where every page asks for the login."""
    return [sys.executable, "-m", "compose.flower", "--hostname", host, "--port", str(port)]

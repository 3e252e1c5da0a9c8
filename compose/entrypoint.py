"""Become one of the stack's containers: `python -m compose.entrypoint SERVICE`.

Checks every setting first: a wrong one ends the container with one line. Then execs the same command
that the run without Docker uses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from celery_stack.queues import Declarations, load_declarations
from celery_stack.settings import SettingError, Settings
from compose import commands
from ml.settings import MLSettingError, MLSettings

ANYWHERE = "0.0.0.0"  # noqa: S104 - inside the container's networks; Compose decides what is published
API_PORT = 8080
FLOWER_PORT = 5555
SERVICES: dict[str, Callable[[], list[str]]] = {
    "settings": lambda: ["true"],
    "init": lambda: [sys.executable, "-m", "compose.init_container"],
    "maintenance": lambda: [sys.executable, "-m", "compose.maintenance"],
    "api-server": lambda: commands.api_server_command(host=ANYWHERE, port=API_PORT),
    "scheduler": commands.scheduler_command,
    "dag-processor": commands.dag_processor_command,
    "triggerer": commands.triggerer_command,
    "sla": lambda: [*commands.sla_command(), "--heartbeat", "/tmp/looked"],  # noqa: S108 - its own, see healthy
    "flower": lambda: commands.flower_command(host=ANYWHERE, port=FLOWER_PORT),
}


def main() -> None:
    """Check the settings and become the named service."""
    service = sys.argv[1]
    try:
        settings, declarations = check_settings(os.environ)
        command = command_of(service, settings, declarations)
    except (SettingError, MLSettingError) as error:
        sys.exit(f"error: {error}")
    environment = dict(os.environ)
    if service in declarations.workers:
        threads = thread_limit(declarations.workers[service].prefix, os.environ)
        environment |= dict.fromkeys(commands.THREAD_LIMITS, threads)
        environment |= commands.warm_workers(declarations)
    os.execvpe(command[0], command, environment)  # noqa: S606 - exec is the point


def check_settings(env: Mapping[str, str]) -> tuple[Settings, Declarations]:
    """Give the settings and declarations that `env` describes.

    Raises:
        SettingError, MLSettingError: the first wrong value, in one line.
    """
    settings, declarations = Settings.from_env(env), load_declarations(env)
    places = {"ARTIFACTS_URL": "file:///", "LANDING_DIR": "/"}
    MLSettings.from_env(places | {name: value for name, value in env.items() if value})
    return settings, declarations


def command_of(service: str, settings: Settings, declarations: Declarations) -> list[str]:
    """Give the command of `service`; a worker's is run under a guard."""
    if service in SERVICES:
        return SERVICES[service]()
    if service not in declarations.workers:
        known = ", ".join([*SERVICES, *declarations.workers])
        raise SettingError(f"Expected a service out of {known}, got {service!r}.")
    worker = declarations.workers[service]
    guard = [sys.executable, "-m", "compose.guard", "--node", service]
    guard += ["--queues", ",".join(worker.queues)]
    guard += ["--stop-timeout-s", str(settings.WORKER_STOP_TIMEOUT_S)]
    guard += ["--check-s", str(settings.WORKER_CHECK_S)]
    return [*guard, "--", *commands.worker_command(worker, name=service)]


def thread_limit(prefix: str, env: Mapping[str, str]) -> str:
    """Give how many threads the numeric libraries of one slot may start."""
    return env.get(f"{prefix}_THREADS") or "1"


def secrets_folder() -> Path:
    """Give the folder below which each container finds the secrets that are its own."""
    return Path("/run/stack")


if __name__ == "__main__":
    main()

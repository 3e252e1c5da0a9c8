"""Start the stack without Docker, step by step; every step can be repeated."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
from rich.console import Console

from celery_stack.queues import Declarations, load_declarations
from celery_stack.settings import SettingError, Settings
from celery_stack.warehouse.role import connection_limit
from compose import launch, servers
from compose.home import StackHome, artifacts_url, landing_folder, shown
from compose.ports import choose_ports, one_start_at_a_time
from compose.programs import (
    Plan,
    Program,
    airflow_environment,
    airflow_programs,
    command_line_environment,
)
from compose.programs import servers as server_programs
from compose.secret_files import Addresses, derive_secrets, make_secrets
from compose.supervise import Supervisor, group_of, write_configuration
from ml.settings import MLSettings

SERVER_DEADLINE_S = 60
HEALTH_DEADLINE_S = 180
STOP_PATIENCE_S = 25
MAX_PROCESSES = 64


class StartError(RuntimeError):
    """A part of the stack did not come up; the message ends with its log."""


def bring_up(
    home: StackHome,
    env: Mapping[str, str],
    scale: Sequence[str],
    console: Console,
    *,
    die_with_parent: bool = False,
    choose_programs: Callable[[Plan], list[Program]] = airflow_programs,
) -> bool:
    """Start the stack and wait until every component reports itself healthy.

    A stack that is up is left alone; one that was cut short while it started is started anew.

    Args:
        scale: `worker=4` for four processes of a worker pool, one without a word.
        die_with_parent: everything stops when this process does, however it ends.
        choose_programs: gives what runs beside Postgres and Redis, once the secrets are there.

    Returns:
        Whether it was this call that started it.

    Raises:
        SettingError: a variable has a wrong value; nothing was started.
        ServerError, StartError: a part did not come up.
    """
    settings = Settings.from_env(env)
    declarations = load_declarations(env)
    processes = _read_scale(scale, declarations)
    _check_pipeline_settings(home, env)
    home.make_folders()
    supervisor = Supervisor(home)
    with _one_start_per_home(home):
        if supervisor.has_started_everything():
            console.print("already running; to change its scale: make stop, then start again")
            return False
        # What a killed supervisor, or a start that was cut short, left behind.
        supervisor.stop(patience_s=STOP_PATIENCE_S)
        with one_start_at_a_time(console.print), _stopped_on_failure(supervisor, console):
            ports = choose_ports(_wanted_ports(settings), home.ports_file)
            plan = Plan(home, env, settings, declarations, ports, processes)
            _prepare_secrets(plan, console)
            programs = choose_programs(plan)
            _start_servers(plan, programs, supervisor, console, die_with_parent=die_with_parent)
            _initialise(plan, console)
            servers.prepare_slas(home.secrets, _addresses(plan))
            _start_airflow(plan, programs, supervisor, console)
    return True


def _read_scale(scale: Sequence[str], declarations: Declarations) -> dict[str, int]:
    processes = {}
    for word in scale:
        name, _, number = word.partition("=")
        if name not in declarations.workers or not (number.isascii() and number.isdecimal()):
            known = ", ".join(f"{worker}=N" for worker in declarations.workers)
            raise SettingError(f"SCALE must be made of {known}, got {word!r}.")
        if not 0 <= int(number) <= MAX_PROCESSES:
            raise SettingError(f"SCALE must be 0 to {MAX_PROCESSES} of {name}, got {number}.")
        processes[name] = int(number)
    return processes


def _check_pipeline_settings(home: StackHome, env: Mapping[str, str]) -> None:
    places = {
        "ARTIFACTS_URL": artifacts_url(home, env),
        "LANDING_DIR": str(landing_folder(home, env)),
    }
    MLSettings.from_env(dict(env) | places)


def _wanted_ports(settings: Settings) -> dict[str, int]:
    return {
        "postgres": settings.POSTGRES_PORT,
        "redis": settings.REDIS_PORT,
        "supervisor": settings.SUPERVISOR_PORT,
        "api": settings.API_PORT,
        "flower": settings.FLOWER_PORT,
    }


@contextlib.contextmanager
def _one_start_per_home(home: StackHome) -> Iterator[None]:
    with (home.run / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _stopped_on_failure(supervisor: Supervisor, console: Console) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop_at_once(supervisor, console)
        raise


def stop_at_once(supervisor: Supervisor, console: Console) -> None:
    """Stop without waiting for tasks; a second Ctrl-C does not leave half of it running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if supervisor.has_session():
        with console.status("stopping"):
            supervisor.stop(patience_s=STOP_PATIENCE_S)
        console.print("stopped; nothing is left running")


@contextlib.contextmanager
def _step(console: Console, name: str) -> Iterator[list[str]]:
    """Print one line when the step is done; what the step appends to the list is its detail."""
    started = time.monotonic()
    detail: list[str] = []
    with console.status(name):
        yield detail
    seconds = time.monotonic() - started
    console.print(f"✓ {' '.join([name, *detail])} [dim]{seconds:.1f} s[/]", soft_wrap=True)


def _addresses(plan: Plan) -> Addresses:
    return Addresses("127.0.0.1", plan.ports["postgres"], "127.0.0.1", plan.ports["redis"])


def _prepare_secrets(plan: Plan, console: Console) -> None:
    with _step(console, "secrets") as detail:
        make_secrets(plan.home.secrets)
        derive_secrets(plan.home.secrets, _addresses(plan), plan.settings)
        detail.append(f"in {shown(plan.home.secrets)}")


def _start_servers(
    plan: Plan,
    programs: Sequence[Program],
    supervisor: Supervisor,
    console: Console,
    *,
    die_with_parent: bool,
) -> None:
    home, ports, addresses = plan.home, plan.ports, _addresses(plan)
    with _step(console, "Postgres") as detail:
        servers.prepare_postgres(home)
        servers.prepare_redis(home, ports["redis"])
        write_configuration(
            home,
            [*server_programs(plan), *programs],
            ports["supervisor"],
            command_line=command_line_environment(plan),
        )
        supervisor.start(die_with_parent=die_with_parent)
        supervisor.start_group("servers")
        log = home.program_logs / "postgres.log"
        version = servers.wait_for_postgres(
            home.secrets, addresses, log=log, deadline_s=SERVER_DEADLINE_S
        )
        servers.make_databases(home.secrets, addresses)
        limit = connection_limit(plan.declarations)
        servers.prepare_warehouse(home.secrets, addresses, connection_limit=limit)
        detail.append(f"{version} on port {ports['postgres']}")
    with _step(console, "Redis") as detail:
        version = servers.wait_for_redis(home, addresses, deadline_s=SERVER_DEADLINE_S)
        detail.append(f"{version} on port {ports['redis']}")


def _initialise(plan: Plan, console: Console) -> None:
    log = plan.home.program_logs / "init.log"
    (plan.home.airflow / "airflow.cfg").touch()  # else Airflow writes one with keys of its own
    command = [sys.executable, "-m", "compose.init", plan.settings.ADMIN_USER]
    command += [plan.settings.ADMIN_EMAIL, str(plan.home.secrets / "admin/password")]
    with _step(console, "database schema, first user, pools"), log.open("w") as file:
        done = subprocess.run(  # noqa: S603
            command,
            env=launch.environment(airflow_environment(plan, "control")),
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=_die_with_this_process,
        )
        if done.returncode != 0:
            raise StartError(f"Preparing the database failed. End of {log}:\n{_tail(log)}")


def _die_with_this_process() -> None:
    launch.die_with_parent("KILL")


def _start_airflow(
    plan: Plan, programs: Sequence[Program], supervisor: Supervisor, console: Console
) -> None:
    with _step(console, "Airflow") as detail:
        supervisor.start_group("control")
        if any(group_of(program.name) == "workers" for program in programs):
            supervisor.start_group("workers")
        _wait_until_healthy(plan, supervisor)
        detail.append(", ".join(_describe(program) for program in programs))


def _describe(program: Program) -> str:
    return program.name if program.processes == 1 else f"{program.name} ×{program.processes}"


def _wait_until_healthy(plan: Plan, supervisor: Supervisor) -> None:
    url = f"http://127.0.0.1:{plan.ports['api']}"
    end = time.monotonic() + HEALTH_DEADLINE_S
    while True:
        unhealthy = _unhealthy(url)
        down = [p["name"] for p in supervisor.processes() if p["statename"] in ("BACKOFF", "FATAL")]
        if not unhealthy and not down:
            return
        if time.monotonic() > end or not supervisor.is_running():
            worst = next(iter(down), unhealthy[0] if unhealthy else "supervisord")
            log = plan.home.program_logs / f"{worst.replace('_', '-')}.log"
            raise StartError(
                f"Expected every component to be healthy within {HEALTH_DEADLINE_S} s, "
                f"found: {', '.join([*down, *unhealthy])}. End of {log}:\n{_tail(log)}"
            )
        time.sleep(0.2)


def _unhealthy(url: str) -> list[str]:
    """Name the components that do not report themselves healthy.

    The api-server builds what tasks talk to when it is first asked for it, in seconds: ask before a task does.
    """
    try:
        httpx.get(f"{url}/execution/health", timeout=10).raise_for_status()
        answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=10)
        parts: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return ["api-server"]
    return [name for name, part in parts.items() if part["status"] not in ("healthy", None)]


def _tail(log: Any, characters: int = 2000) -> str:
    return log.read_text(errors="replace")[-characters:] if log.exists() else "(no log)"

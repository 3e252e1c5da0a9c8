"""The stack without Docker: `python -m compose.local up | demo | train | models | status | logs | stop`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping

from rich.markup import escape

from celery_stack.settings import SettingError, Settings
from compose import launch
from compose.client import AirflowClient, StackError
from compose.follow import make_console
from compose.home import StackHome, artifacts_url, find_home, read_environment, shown
from compose.ports import NoFreePortError
from compose.programs import COMMAND_LINE
from compose.secret_files import read_secret
from compose.servers import ServerError
from compose.status import print_status
from compose.supervise import Supervisor, SupervisorError
from compose.train import train_and_show
from compose.up import StartError, bring_up, stop_at_once
from ml.settings import MLSettingError

EXPECTED_ERRORS = (
    SettingError,
    MLSettingError,
    ServerError,
    NoFreePortError,
    StackError,
    StartError,
    SupervisorError,
    TimeoutError,
)

console = make_console()


def main() -> int:
    """Run one command; give its exit code."""
    arguments = _parse()
    # SIGINT too: started in the background of a shell, Python would ignore it.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        env = read_environment(os.environ)
        command: Callable[..., int] = arguments.command
        return command(find_home(env), env, arguments)
    except EXPECTED_ERRORS as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]")
        return 130


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compose.local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(command=function)
        if name in ("up", "demo"):
            command.add_argument("--scale", nargs="*", default=[], metavar="WORKER=N")
        if name == "logs":
            command.add_argument("program", nargs="?", default="")
        if name in ("airflow", "models", "why"):
            command.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args()


def up(home: StackHome, env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Start the stack and leave it running."""
    bring_up(home, env, arguments.scale, console)
    ports = json.loads(home.ports_file.read_text())
    user = env.get("ADMIN_USER", "admin")
    console.print(f"\n  Airflow   http://127.0.0.1:{ports['api']}   user {user}")
    console.print(f"  Flower    http://127.0.0.1:{ports['flower']}   the same user")
    console.print(
        f"  password  in {shown(home.secrets / 'admin/password')}, or: make password",
        soft_wrap=True,
    )
    console.print("  make train · make status · make logs · make stop")
    return 0


def demo(home: StackHome, env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Start the stack, train a model, show what came of it, stop the stack."""
    started = bring_up(home, env, arguments.scale, console, die_with_parent=True)
    try:
        return train(home, env, arguments)
    finally:
        if started:
            stop_at_once(Supervisor(home), console)


def train(home: StackHome, env: Mapping[str, str], _arguments: argparse.Namespace) -> int:
    """Trigger the training pipeline on the running stack and follow it."""
    return train_and_show(_connect(home, env), console, artifacts_url(home, env))


def models(home: StackHome, env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Look at the registered models: `list`; choose another champion: `promote`, `rollback`."""
    command = [sys.executable, "-m", "ml.champion", *(arguments.words or ["list"])]
    place = {"ARTIFACTS_URL": artifacts_url(home, env)}
    return subprocess.run(command, env={**env, **place}, check=False).returncode  # noqa: S603


def _connect(home: StackHome, env: Mapping[str, str]) -> AirflowClient:
    _expect_running(home)
    ports = json.loads(home.ports_file.read_text())
    return AirflowClient(
        f"http://127.0.0.1:{ports['api']}",
        user=env.get("ADMIN_USER", "admin"),
        password=read_secret(home.secrets / "admin/password"),
    )


def _expect_running(home: StackHome) -> None:
    if not Supervisor(home).is_running():
        raise StackError(
            f"Expected a running stack in {home.root}, found none. Start it: make local"
        )


def why(home: StackHome, _env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Say why a task is not running: `why DAG TASK [--run RUN] [--map INDEX]`."""
    _expect_running(home)
    command = [sys.executable, "-m", "celery_stack.why", *arguments.words]
    launch.main(str(home.programs_file), COMMAND_LINE, *command)
    return 0


def status(home: StackHome, env: Mapping[str, str], _arguments: argparse.Namespace) -> int:
    """Show each program, and which queues its worker consumes."""
    return print_status(home, console)


def logs(home: StackHome, _env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Follow the programs' logs; `logs worker` only those of the workers of that name."""
    name = arguments.program or "*"
    patterns = (f"{name}.log", f"{name}-[0-9]*.log")
    files = sorted({file for pattern in patterns for file in home.program_logs.glob(pattern)})
    if not files:
        raise StackError(f"Expected logs in {home.program_logs}, found none. Start: make local")
    os.execvp("tail", ["tail", "-n", "20", "-F", *map(str, files)])  # noqa: S606, S607


def stop(home: StackHome, env: Mapping[str, str], _arguments: argparse.Namespace) -> int:
    """Let running tasks finish, then stop everything."""
    patience_s = Settings.from_env(env).WORKER_STOP_TIMEOUT_S + 30
    supervisor = Supervisor(home)
    if not supervisor.has_session():
        console.print(f"nothing runs in {home.root}", soft_wrap=True)
        return 0
    killed = supervisor.stop(patience_s=patience_s)
    for name in killed:
        console.print(f"[yellow]killed after {patience_s:.0f} s:[/] {name}", soft_wrap=True)
    console.print("stopped")
    return 0


def password(home: StackHome, _env: Mapping[str, str], _arguments: argparse.Namespace) -> int:
    """Print the password of the first user."""
    file = home.secrets / "admin/password"
    if not file.exists():
        raise StackError(f"Expected a password in {file}, found none. Start once: make local")
    print(read_secret(file))  # noqa: T201 - asked for, and for pipes
    return 0


def airflow(home: StackHome, _env: Mapping[str, str], arguments: argparse.Namespace) -> int:
    """Run an Airflow command against the running stack: `airflow tasks test …`."""
    if not home.programs_file.exists():
        raise StackError(f"Expected a stack in {home.root}, found none. Start it: make local")
    command = [sys.executable, "-m", "airflow", *arguments.words]
    launch.main(str(home.programs_file), COMMAND_LINE, *command)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "up": up,
    "demo": demo,
    "train": train,
    "models": models,
    "status": status,
    "why": why,
    "logs": logs,
    "stop": stop,
    "password": password,
    "airflow": airflow,
}

if __name__ == "__main__":
    sys.exit(main())

"""What make asks of the Compose stack, from inside it: `train | status | password`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import httpx
from rich.table import Table

from compose.client import AirflowClient, StackError
from compose.consumers import ask_for_workers, print_misfits
from compose.entrypoint import secrets_folder
from compose.follow import make_console
from compose.secret_files import read_secret
from compose.train import train_and_show

API_SERVER = "http://api-server:8080"
START_DEADLINE_S = 120

console = make_console()


def train() -> int:
    """Trigger the training pipeline and follow it."""
    user = os.environ.get("ADMIN_USER") or "admin"
    password = read_secret(secrets_folder() / "admin/password")
    _wait_for_api_server()
    client = AirflowClient(API_SERVER, user=user, password=password)
    return train_and_show(client, console, os.environ["ARTIFACTS_URL"])


def _wait_for_api_server() -> None:
    """Wait while it starts: `up -d` returns before it answers."""
    end = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            httpx.get(f"{API_SERVER}/api/v2/version", timeout=5)
            return
        except httpx.TransportError as error:
            if time.monotonic() > end:
                raise StackError(
                    f"Expected the api-server to answer within {START_DEADLINE_S} s, "
                    f"found: {error}. Look into: docker compose logs api-server"
                ) from None
        time.sleep(0.5)


def status() -> int:
    """Show which queues each worker consumes; 0 if there is a worker and each consumes."""
    workers = ask_for_workers(read_secret(secrets_folder() / "flower/broker_url"))
    table = Table(header_style="bold")
    table.add_column("worker")
    table.add_column("consumes")
    for worker in workers:
        table.add_row(worker.name, ", ".join(worker.queues) or "[bold red]nothing[/]")
    console.print(table)
    print_misfits(workers, os.environ, console)
    return 0 if workers and all(worker.queues for worker in workers) else 1


def password() -> int:
    """Print the password of the first user."""
    print(read_secret(secrets_folder() / "admin/password"))  # noqa: T201 - asked for, and for pipes
    return 0


COMMANDS: dict[str, Callable[[], int]] = {"train": train, "status": status, "password": password}


def main() -> int:
    """Run one command; give its exit code."""
    try:
        return COMMANDS[sys.argv[1]]()
    except (StackError, TimeoutError) as error:
        console.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""What runs in one home, and what it consumes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from celery_stack.live_workers import LiveWorker
from compose.consumers import ask_for_workers, print_misfits
from compose.home import StackHome
from compose.programs import COMMAND_LINE
from compose.secret_files import read_secret
from compose.supervise import Supervisor


def print_status(home: StackHome, console: Console) -> int:
    """Print one row per program and where their slots do not fit the limits.

    Returns:
        0 if all run and every worker consumes, else 1.
    """
    processes = Supervisor(home).processes()
    if not processes:
        console.print(f"nothing runs in {home.root}", soft_wrap=True)
        return 1
    live = _ask(home)
    queues = _by_name(live)
    table = Table(header_style="bold")
    for column in ("program", "state", "up", "pid", "consumes"):
        table.add_column(column)
    for process in processes:
        table.add_row(*_row(process, queues))
    console.print(table)
    print_misfits(live, _environment_in_force(home), console)
    workers = [p["name"] for p in processes if p["group"] == "workers"]
    well = all(p["statename"] == "RUNNING" for p in processes)
    return 0 if well and all(queues.get(name) for name in workers) else 1


def consumed_queues(home: StackHome) -> dict[str, list[str]]:
    """Ask the workers over Redis which queues they consume: worker name → queue names.

    A worker that answers a ping may still consume nothing; this is what its health means.
    """
    return _by_name(_ask(home))


def _ask(home: StackHome) -> list[LiveWorker]:
    return ask_for_workers(read_secret(home.secrets / "flower/broker_url"))


def _environment_in_force(home: StackHome) -> dict[str, str]:
    """Give the variables that the stack was started with; those of now may be others."""
    programs: dict[str, Any] = json.loads(home.programs_file.read_text())
    environment: dict[str, str] = programs[COMMAND_LINE]["env"]
    return environment


def _by_name(workers: Sequence[LiveWorker]) -> dict[str, list[str]]:
    return {worker.name.partition("@")[0]: list(worker.queues) for worker in workers}


def _row(process: dict[str, Any], queues: dict[str, list[str]]) -> tuple[str, ...]:
    running = process["statename"] == "RUNNING"
    seconds = int(time.time() - process["start"]) if running else 0
    consumes = ""
    if process["group"] == "workers":
        consumes = ", ".join(queues.get(process["name"], [])) or "[bold red]nothing[/]"
    state = process["statename"].lower()
    return (
        process["name"],
        f"[{'green' if running else 'bold red'}]{state}[/]",
        f"{seconds // 60} min {seconds % 60} s",
        str(process["pid"] or ""),
        consumes,
    )

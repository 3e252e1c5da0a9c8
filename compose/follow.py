"""Show a run while it goes: which task is where, on which worker, for how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from compose.client import AirflowClient, TaskState

METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc")
STYLES = {
    "success": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "running": "cyan",
    "queued": "blue",
}


# Off a terminal rich assumes 80 columns and cuts task names short.
WIDTH_OFF_TERMINAL = 110


def make_console() -> Console:
    """Give the console that the commands print to."""
    width = None if sys.stdout.isatty() else WIDTH_OFF_TERMINAL
    return Console(highlight=False, width=width)


def follow_run(
    client: AirflowClient, console: Console, dag_id: str, run_id: str, *, deadline_s: float
) -> str:
    """Show the run's tasks until it ends; give its last state.

    On a terminal one table is redrawn; elsewhere each change of a task is a line, and the table
    comes at the end.

    Raises:
        TimeoutError: it has not ended after `deadline_s`.
    """
    end = time.monotonic() + deadline_s
    seen: dict[tuple[str, int], str] = {}
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        while True:
            state = client.run_state(dag_id, run_id)
            tasks = client.tasks(dag_id, run_id)
            if console.is_terminal:
                live.update(task_table(tasks, title=f"{dag_id} · {state}"), refresh=True)
            else:
                _print_changes(console, tasks, seen)
            if state in ("success", "failed"):
                break
            if time.monotonic() > end:
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {deadline_s:.0f} s")
            time.sleep(0.5)
    if not console.is_terminal:
        console.print(task_table(tasks, title=f"{dag_id} · {state}"))
    return state


def _print_changes(
    console: Console, tasks: list[TaskState], seen: dict[tuple[str, int], str]
) -> None:
    for task in tasks:
        key = (task.task_id, task.map_index)
        now = f"{task.state} (try {task.try_number})"
        if task.state != "waiting" and seen.get(key) != now:
            console.print(f"  {task.label}: {now} {task.worker}", highlight=False, markup=False)
            seen[key] = now


def task_table(tasks: list[TaskState], *, title: str) -> Table:
    """Give one row per task instance: task, queue, worker, state, tries, seconds."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("task", "queue", "worker", "state"):
        table.add_column(column)
    table.add_column("try", justify="right")
    table.add_column("seconds", justify="right")
    for task in tasks:
        seconds = "" if task.duration_s is None else f"{task.duration_s:.1f}"
        state = f"[{STYLES.get(task.state, 'dim')}]{task.state}[/]"
        tries = str(task.try_number or "")
        table.add_row(escape(task.label), task.queue, task.worker, state, tries, seconds)
    return table


def metrics_table(manifest: Mapping[str, Any]) -> Table:
    """Give a registered model's metrics: cross-validated, held out with interval, and the bar.

    Args:
        manifest: what the task `register` returns.
    """
    table = Table(title="Metrics (malignant is the positive class)", title_justify="left")
    for column in ("metric", "cross-validated", "bar", "held out", "95 % interval"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in METRICS:
        held_out = manifest["metrics"][name]
        mean, bar = manifest["cv_metrics"][name]["mean"], manifest["bars"].get(name)
        style = "dim" if bar is None else ("green" if mean >= bar else "bold red")
        table.add_row(
            name,
            f"[{style}]{mean:.3f}[/]",
            "" if bar is None else f"{bar:.2f}",
            f"{held_out['value']:.3f}",
            f"{held_out['low']:.3f} – {held_out['high']:.3f}",
        )
    return table

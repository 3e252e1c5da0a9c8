"""Which queues the workers consume, as they themselves say, and whether their slots fit the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from celery_stack.live_workers import LiveWorker, ask_workers, connect
from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from celery_stack.slots import find_misfits


def ask_for_workers(broker_url: str) -> list[LiveWorker]:
    """Ask every worker over Redis which queues it consumes, and how many slots it has."""
    return ask_workers(connect(broker_url))


def print_misfits(workers: Sequence[LiveWorker], env: Mapping[str, str], console: Console) -> None:
    """Print where the live slots do not fit the limits that `env` sets."""
    parallelism = Settings.from_env(env).PARALLELISM
    for misfit in find_misfits(workers, load_declarations(env), parallelism):
        style = "dim" if misfit.is_harmless else "yellow"
        console.print(f"[{style}]{misfit.text}[/]", soft_wrap=True)

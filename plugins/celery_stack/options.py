"""Airflow's options as this stack sets them, for programs that do without Airflow: it takes 80 MiB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import split


def read_option(option: str, env: Mapping[str, str]) -> str:
    """Give what the variable `option` says, as AIRFLOW__CELERY__BROKER_URL, or the file that its `…_CMD` prints.

    Raises:
        KeyError: neither is set.
    """
    command = env.get(f"{option}_CMD")
    return env[option] if command is None else Path(split(command)[-1]).read_text()

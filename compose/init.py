"""Prepare the metadata database: schema, first user, declared pools. Safe to run at every start.

Runs in the environment of the `control` group. One process for all three, because starting Airflow
is what takes the time; the password goes in as a value, never on a command line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from airflow.cli import cli_parser

from celery_stack.queues import load_declarations
from compose.secret_files import read_secret


def initialise(*, admin_user: str, admin_email: str, password: str) -> None:
    """Migrate the schema, make the first user if there is none by that name, set the pools."""
    _airflow("db", "migrate")
    names = ["--username", admin_user, "--email", admin_email, "--role", "Admin"]
    names += ["--firstname", "Stack", "--lastname", "Admin", "--password", password]
    _airflow("users", "create", *names)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(load_declarations(os.environ).pools_json(), file)
        file.flush()
        _airflow("pools", "import", file.name)


def _airflow(*arguments: str) -> None:
    """Run one command of Airflow's command line in this process."""
    parsed = cli_parser.get_parser().parse_args(list(arguments))
    parsed.func(parsed)


if __name__ == "__main__":
    user, email, password_file = sys.argv[1:]
    initialise(admin_user=user, admin_email=email, password=read_secret(Path(password_file)))

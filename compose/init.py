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
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

from celery_stack.queues import load_declarations
from compose.secret_files import read_secret


def initialise(*, admin_user: str, admin_email: str, password: str) -> None:
    """Migrate the schema, set the first user and the pools."""
    _airflow("db", "migrate")
    _set_user(admin_user, admin_email, password)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(load_declarations(os.environ).pools_json(), file)
        file.flush()
        _airflow("pools", "import", file.name)


def _set_user(name: str, email: str, password: str) -> None:
    """Make the user, or give the one with that name or e-mail this name and password."""
    with get_application_builder() as builder:
        manager = builder.sm
        user = manager.find_user(username=name) or manager.find_user(email=email)
        if user is None:
            admin = manager.find_role("Admin")
            manager.add_user(name, "Stack", "Admin", email, admin, password)
            return
        user.username = name
        manager.update_user(user)
        manager.reset_password(user.id, password)


def _airflow(*arguments: str) -> None:
    """Run one command of Airflow's command line in this process."""
    parsed = cli_parser.get_parser().parse_args(list(arguments))
    parsed.func(parsed)


if __name__ == "__main__":
    user, email, password_file = sys.argv[1:]
    initialise(admin_user=user, admin_email=email, password=read_secret(Path(password_file)))

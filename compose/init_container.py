"""Prepare both databases of the Compose stack; safe to run at every start."""

from __future__ import annotations

import os
import sys

from celery_stack.settings import Settings
from compose import servers
from compose.entrypoint import secrets_folder
from compose.secret_files import read_secret
from compose.secret_volumes import COMPOSE_ADDRESSES

POSTGRES_DEADLINE_S = 120


def main() -> None:
    """Wait for Postgres, make roles and databases, then what Airflow needs in its own."""
    settings, secrets = Settings.from_env(os.environ), secrets_folder()
    try:
        version = servers.wait_for_postgres(
            secrets, COMPOSE_ADDRESSES, log=None, deadline_s=POSTGRES_DEADLINE_S
        )
        print(f"Postgres {version}", flush=True)  # noqa: T201 - the container's log
        servers.make_databases(secrets, COMPOSE_ADDRESSES)
    except servers.ServerError as error:
        sys.exit(f"error: {error}")
    if "--databases-only" in sys.argv[1:]:
        return
    from compose.init import initialise  # starts Airflow

    initialise(
        admin_user=settings.ADMIN_USER,
        admin_email=settings.ADMIN_EMAIL,
        password=read_secret(secrets / "admin/password"),
    )


if __name__ == "__main__":
    main()

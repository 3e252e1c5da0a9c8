"""Prepare both databases of the Compose stack; safe to run at every start."""

from __future__ import annotations

import os
import sys

from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from celery_stack.warehouse.role import connection_limit
from compose import servers
from compose.entrypoint import secrets_folder
from compose.secret_files import read_secret
from compose.secret_volumes import COMPOSE_ADDRESSES

POSTGRES_DEADLINE_S = 120


def main() -> None:
    """Wait for Postgres, make roles and databases, then what Airflow needs in its own."""
    settings, secrets = Settings.from_env(os.environ), secrets_folder()
    declarations = load_declarations(os.environ)
    try:
        version = servers.wait_for_postgres(
            secrets, COMPOSE_ADDRESSES, log=None, deadline_s=POSTGRES_DEADLINE_S
        )
        print(f"Postgres {version}", flush=True)  # noqa: T201 - the container's log
        servers.make_databases(secrets, COMPOSE_ADDRESSES)
        if "--databases-only" in sys.argv[1:]:
            return
        limit = connection_limit(declarations)
        servers.prepare_warehouse(secrets, COMPOSE_ADDRESSES, connection_limit=limit)
    except servers.ServerError as error:
        sys.exit(f"error: {error}")
    from compose.init import initialise  # starts Airflow

    initialise(
        admin_user=settings.ADMIN_USER,
        admin_email=settings.ADMIN_EMAIL,
        password=read_secret(secrets / "admin/password"),
    )
    servers.prepare_slas(secrets, COMPOSE_ADDRESSES)


if __name__ == "__main__":
    main()

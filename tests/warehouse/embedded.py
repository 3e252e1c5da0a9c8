"""A Postgres to run and a task to write as."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_stack.settings import Settings
from celery_stack.warehouse.fence import Writer
from compose.home import StackHome
from compose.secret_files import Addresses, derive_secrets, make_secrets, read_secret
from compose.servers import (
    make_databases,
    postgres_command,
    prepare_postgres,
    wait_for_postgres,
)

RUN_STARTED = datetime(2026, 11, 21, 6, tzinfo=UTC)


@contextmanager
def running_warehouse(folder: Path) -> Iterator[str]:
    """Run Postgres with an empty warehouse below `folder`; give the superuser's URL of it."""
    home = StackHome(folder)
    home.make_folders()
    make_secrets(home.secrets)
    prepare_postgres(home)
    port = free_port()
    addresses = Addresses("127.0.0.1", port, "127.0.0.1", 1)
    log = folder / "postgres.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            postgres_command(home, port), stdout=output, stderr=output, cwd=home.postgres
        )
    try:
        wait_for_postgres(home.secrets, addresses, log=log, deadline_s=60)
        make_databases(home.secrets, addresses)
        derive_secrets(home.secrets, addresses, Settings())
        password = read_secret(home.secrets / "postgres/superuser")
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/warehouse"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def writer(try_number: int = 1, **other: Any) -> Writer:
    """Give a try of one task instance."""
    given = {"dag_id": "wdbc_ingest", "run_id": "daily", "task_id": "store", "map_index": -1}
    return Writer(**{**given, "try_number": try_number, "run_started_at": RUN_STARTED, **other})

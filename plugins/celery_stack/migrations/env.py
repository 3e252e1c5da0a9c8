"""What Alembic runs: the steps that are missing, all of them in one transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

# Two that migrate at once: the second waits, then finds nothing to do. The number is arbitrary.
LOCK = text("SELECT pg_advisory_xact_lock(7203114)")


def run(connection: Connection) -> None:
    """Apply what is missing."""
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.execute(LOCK)
        context.run_migrations()


run(context.config.attributes["connection"])

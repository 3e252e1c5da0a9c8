"""Bring the warehouse's schema up to date; safe to run at every start, and twice at once.

    python -m celery_stack.migrate FILE

FILE holds the URL of the warehouse, alone or as `warehouse` in a JSON object of connections. The
URL carries a password and is never printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import NullPool

CONNECTION = "warehouse"


class MigrationError(RuntimeError):
    """The schema could not be brought up to date; the message is one line with the remedy."""


def migrate(url: str, *, revision: str = "head") -> None:
    """Apply every step that the warehouse at `url` has not seen, all or none.

    Args:
        url: `postgresql://user:password@host:port/database`.

    Raises:
        MigrationError: the URL is none, or nothing answers there.
    """
    config = Config()
    config.set_main_option("script_location", "celery_stack:migrations")
    config.set_main_option("path_separator", "os")
    try:
        target = make_url(url).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise MigrationError(f"{CONNECTION} must be a postgresql:// URL. Correct it.") from None
    engine = create_engine(target, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except OperationalError as error:
        reason = " ".join(str(error.orig).split())
        raise MigrationError(f"The warehouse must answer, found: {reason}. Start it.") from None


def read_url(file: Path) -> str:
    """Give the URL of the warehouse that `file` holds.

    Raises:
        MigrationError: there is none.
    """
    try:
        text = file.read_text(encoding="utf-8").strip()
        url = json.loads(text)[CONNECTION] if text.startswith("{") else text
    except (OSError, KeyError, ValueError) as error:
        raise MigrationError(
            f"{file} must hold the URL of {CONNECTION!r}, found {type(error).__name__}. "
            "Start the stack once, it writes it."
        ) from None
    return str(url)


def main(arguments: Sequence[str]) -> int:
    """Migrate the warehouse whose URL the file named holds; give the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m celery_stack.migrate FILE\n")
        return 2
    try:
        migrate(read_url(Path(arguments[0])))
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

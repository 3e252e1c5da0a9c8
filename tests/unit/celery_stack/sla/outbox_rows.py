"""Mails in the outbox, put and looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import Connection

from celery_stack.sla.mail import Rendered
from celery_stack.sla.outbox import enqueue

LATER = timedelta(minutes=20)  # beyond the longest backoff


BODY = Rendered("subject", "text ü\n.\n..dots", "<p>html ü</p>")


def now() -> datetime:
    return datetime.now(UTC)


def put(
    connection: Connection[Any], *to: str, key: str = "a", body: Rendered | None = None
) -> bool:
    """Put a mail with the key as its subject into the outbox."""
    rendered = body or Rendered(key, BODY.text, BODY.html)
    return enqueue(
        connection,
        key=key,
        kind="sla",
        dag_id="dag",
        run_id="run",
        recipients=to or ["you@example.org"],
        rendered=rendered,
    )


def row(connection: Connection[Any], key: str = "a") -> dict[str, Any]:
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("select * from sla.mail where key = %s", (key,)).fetchone()
    assert found is not None
    return found

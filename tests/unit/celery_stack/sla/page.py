"""What the tests of the SLA page share: its users, its addresses, and rows for it to show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow import settings
from fastapi.testclient import TestClient
from jwt import ExpiredSignatureError, InvalidTokenError
from psycopg import Connection
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

NOW = datetime.now(UTC)
JSON_PATHS = ("/sla/records.json", "/sla/summary.json")
PATHS = ("/sla/", *JSON_PATHS)


class Users:
    """Stands for the auth manager: a token is a user's name, and each user may read some DAGs."""

    readable = {"anna": {"etl", "train"}, "otto": {"other"}, "nobody": set(), "guest": {"etl"}}  # noqa: RUF012

    async def get_user_from_token(self, token: str) -> str:
        if token == "expired":
            raise ExpiredSignatureError
        if token not in self.readable:
            raise InvalidTokenError
        return token

    def is_authorized_dag(self, *, method: str, access_entity: Any, user: str) -> bool:
        assert method == "GET"
        return user != "guest"

    def get_authorized_dag_ids(self, *, user: str, method: str) -> set[str]:
        assert method == "GET"
        return self.readable[user]


@contextmanager
def sessions_of(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Airflow's own sessions go to `url`."""
    engine = create_engine(
        url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=NullPool
    )
    monkeypatch.setattr(settings, "NonScopedSession", sessionmaker(engine))
    yield
    engine.dispose()


def add_record(connection: Connection[Any], **told: Any) -> int:
    """Add a record, a miss of an hour ago unless told otherwise; give its id."""
    values = {
        "dag_id": "etl",
        "run_id": f"scheduled__{told.get('name', 'run')}",
        "task_id": "",
        "name": "run",
        "due_from": NOW - timedelta(hours=2),
        "promised": NOW - timedelta(hours=1),
        "verdict": "missed",
        "state": "running",
        "recipients": ["team@example.org"],
    } | told
    if "blocking" in values:
        values["blocking"] = json.dumps(values["blocking"])
    return insert(connection, "record", values)


def add_mail(connection: Connection[Any], record: int | None = None, **told: Any) -> int:
    """Add an e-mail, about `record` if it is given; give its id."""
    values = {
        "kind": "sla",
        "dag_id": "etl",
        "run_id": "scheduled__run",
        "message_id": "<1@airflow.internal>",
        "recipients": ["team@example.org"],
        "subject": "etl is late",
        "body_text": "late",
        "body_html": "late",
    } | told
    values["key"] = f"key-{values['subject']}-{values['dag_id']}"
    mail = insert(connection, "mail", values)
    if record is not None:
        insert(connection, "mail_record", {"mail_id": mail, "record_id": record}, key="mail_id")
    return mail


def insert(connection: Connection[Any], table: str, values: dict[str, Any], key: str = "id") -> int:
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    query = f"insert into sla.{table} ({columns}) values ({marks}) returning {key}"  # noqa: S608
    row = connection.execute(query, list(values.values())).fetchone()
    assert row is not None
    return int(row[0])


def names(client: TestClient, **query: Any) -> list[str]:
    """Ask for records; give their names in the order of the answer."""
    answer = client.get("/sla/records.json", params=query)
    assert answer.status_code == 200, answer.text
    return [one["name"] for one in answer.json()["records"]]

"""What the SLA page says when there is nothing to show, or it cannot be shown."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from psycopg import Connection

from tests.unit.celery_stack.sla.page import (
    PATHS,
    add_record,
    sessions_of,
)


def test_without_any_record_the_page_says_how_to_declare_one(
    anna: TestClient, rows: Connection[Any]
):
    """Also with a filter: nothing could fit it."""
    page = anna.get("/sla/?dag_id=etl").text
    assert "from celery_stack.sla import run_sla, task_sla" in page
    assert "SLA_EMAIL_TO" in page


def test_without_a_miss_the_page_says_so(anna: TestClient, rows: Connection[Any]):
    """Kept promises are no empty page, and neither is a filter that nothing fits."""
    add_record(rows, verdict="met")
    assert "No SLA was missed." in anna.get("/sla/").text
    assert "Show all misses" in anna.get("/sla/?dag_id=train").text


@pytest.mark.parametrize("path", PATHS)
def test_stack_that_is_not_initialised_says_so(
    anna: TestClient, server: dict[str, str], monkeypatch: pytest.MonkeyPatch, path: str
):
    """No schema `sla`: what is missing and what to do, and no traceback."""
    empty = server["superuser"].replace("/airflow", "/warehouse")
    with sessions_of(empty, monkeypatch):
        answer = anna.get(path)
    assert answer.status_code == 503
    assert "Expected the tables of the schema sla" in answer.text
    assert "Traceback" not in answer.text


def test_missing_right_to_read_is_told_alike(
    anna: TestClient, server: dict[str, str], rows: Connection[Any]
):
    """An initialisation that was cut short before its grants."""
    rows.execute("revoke usage on schema sla from airflow")
    try:
        answer = anna.get("/sla/")
    finally:
        rows.execute("grant usage on schema sla to airflow")
    assert answer.status_code == 503
    assert "Expected the tables of the schema sla" in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_database_that_is_down_is_no_traceback(
    anna: TestClient, monkeypatch: pytest.MonkeyPatch, path: str
):
    """The log has the error; the user reads that it can be tried again, and no address."""
    with sessions_of("postgresql://airflow:unseen@127.0.0.1:1/airflow", monkeypatch):
        answer = anna.get(path)
    assert answer.status_code == 503
    assert "did not answer" in answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("verdict=late", "verdict"),
        ("since=yesterday", "since"),
        ("offset=-1", "offset"),
        ("task_id=a%00b", "task_id"),
        ("dag_id=" + "x" * 251, "dag_id"),
    ],
)
@pytest.mark.parametrize("path", ["/sla/", "/sla/records.json"])
def test_wrong_question_is_named(anna: TestClient, path: str, query: str, named: str):
    """422 with the parameter, as a page or as JSON."""
    answer = anna.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert named in answer.text
    assert answer.headers["content-type"].startswith(
        "text/html" if path.endswith("/") else "application/json"
    )

"""Who sees what of SLAs on the page and in its JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from psycopg import Connection

import stack_plugin
from celery_stack.sla.page import create_app, readable_dags
from tests.unit.celery_stack.sla.page import (
    JSON_PATHS,
    PATHS,
    add_mail,
    add_record,
    names,
)


@pytest.mark.parametrize("path", JSON_PATHS)
def test_json_without_a_login_is_refused(client: TestClient, path: str):
    """No cookie and no token: 401, and nothing but that."""
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})


@pytest.mark.parametrize("token", [None, "expired", "forged"])
def test_page_without_a_login_leads_to_it_and_back(client: TestClient, token: str | None):
    """The login is told which page, with its filters, was asked for."""
    if token:
        client.cookies.set("_token", token)
    answer = client.get("/sla/?dag_id=etl&verdict=met")
    assert answer.status_code == 307
    where = urlsplit(answer.headers["location"])
    assert where.path == "/api/v2/auth/login"
    assert parse_qs(where.query) == {"next": ["/sla/?dag_id=etl&verdict=met"]}


@pytest.mark.parametrize(("token", "code"), [("expired", 401), ("forged", 403)])
@pytest.mark.parametrize("path", JSON_PATHS)
def test_json_with_a_worthless_token_is_refused(
    client: TestClient, path: str, token: str, code: int
):
    """As Airflow's own API answers; a token in the header counts as one in the cookie does."""
    assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == code


@pytest.mark.parametrize("path", PATHS)
def test_user_who_may_not_read_task_instances_sees_no_sla(
    client: TestClient, rows: Connection[Any], path: str
):
    """A readable DAG is not enough: Airflow hides its task instances from this user as well."""
    add_record(rows)
    client.cookies.set("_token", "guest")
    answer = client.get(path)
    assert answer.status_code == 403
    assert "Ask an administrator" in answer.text
    assert "etl" not in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_another_dag_is_in_any_answer(
    client: TestClient, rows: Connection[Any], path: str
):
    """Neither records nor shares, e-mails or proposals of filters tell that the DAG exists."""
    secret = add_record(rows, dag_id="secret_dag", task_id="secret_task", reason="secret reason")
    add_mail(rows, secret, dag_id="secret_dag", subject="secret_subject", attempts=3)
    add_record(rows, dag_id="other", name="own")
    client.cookies.set("_token", "otto")
    answer = client.get(path)
    assert answer.status_code == 200
    assert "secret" not in answer.text
    assert "other" in answer.text or path == "/sla/"
    asked = client.get("/sla/records.json?dag_id=secret_dag").json()
    assert (asked["records"], asked["total"]) == ([], 0)


def test_user_who_may_read_no_dag_sees_nothing(client: TestClient, rows: Connection[Any]):
    """An empty set of DAGs narrows to nothing, not to everything."""
    add_mail(rows, add_record(rows), attempts=1)
    client.cookies.set("_token", "nobody")
    assert names(client) == []
    summary = client.get("/sla/summary.json").json()
    assert (summary["missed"], summary["undelivered"], summary["slas"]) == (0, 0, [])


def test_every_route_asks_for_the_readable_dags():
    """The api-server puts nothing before a plugin's application: a new route must not be open."""
    routes = create_app().routes
    assert len(routes) == len(PATHS)
    for route in routes:
        assert isinstance(route, APIRoute)
        asked = {dependency.call for dependency in route.dependant.dependencies}
        assert readable_dags in asked, f"{route.path} checks no access"
        assert route.methods == {"GET"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(anna: TestClient, method: str, path: str):
    """There is no request that another site could make somebody's browser send."""
    assert anna.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json", "nothing"])
def test_application_describes_itself_to_nobody(client: TestClient, path: str):
    """FastAPI's own pages would be open."""
    assert client.get(f"/sla/{path}").status_code == 404


def test_plugin_costs_processes_without_a_web_server_nothing():
    """Schedulers and workers load the plugin; the application is imported by the first request."""
    seen = (
        "import sys, stack_plugin; print({'celery_stack.sla.page', 'fastapi'} & set(sys.modules))"
    )
    path = str(Path(stack_plugin.__file__).parent)
    told = subprocess.run(
        [sys.executable, "-c", seen], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert told.stdout.splitlines()[-1:] == ["set()"], told.stderr

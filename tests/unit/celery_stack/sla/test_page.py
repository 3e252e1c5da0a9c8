"""The SLA page and its JSON: who sees what, in which state, and what is said when it cannot be shown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from airflow import settings
from airflow.api_fastapi import app as airflow_app
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from jwt import ExpiredSignatureError, InvalidTokenError
from psycopg import Connection
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

import stack_plugin
from celery_stack.sla import schema
from celery_stack.sla.page import create_app, readable_dags
from celery_stack.sla.page_data import Record, RecordMail
from celery_stack.sla.page_html import duration, lateness, percent, run_url, task_url
from compose.secret_files import read_secret
from tests.warehouse.embedded import running_warehouse

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


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """Give the URLs of a metadata database with the schema `sla`, by role."""
    with tempfile.TemporaryDirectory(prefix="sla-") as folder:
        Path(folder).chmod(0o755)
        with running_warehouse(Path(folder)) as warehouse:
            address = warehouse.split("@", 1)[1].replace("/warehouse", "/airflow")
            urls = {
                role: f"postgresql://{role}:{read_secret(Path(folder) / 'secrets/postgres' / role)}@{address}"
                for role in ("sla", "airflow")
            }
            urls["superuser"] = warehouse.replace("/warehouse", "/airflow")
            with psycopg.connect(urls["superuser"]) as connection:
                connection.execute("create schema sla authorization sla")
            with psycopg.connect(urls["sla"]) as connection:
                schema.create(connection)
            yield urls


@pytest.fixture
def rows(server: dict[str, str]) -> Iterator[Connection[Any]]:
    """Give the monitor's connection to tables without rows."""
    with psycopg.connect(server["sla"], autocommit=True) as connection:
        connection.execute("truncate sla.record, sla.mail, sla.mail_record restart identity")
        yield connection


@contextmanager
def sessions_of(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Airflow's own sessions go to `url`."""
    engine = create_engine(
        url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=NullPool
    )
    monkeypatch.setattr(settings, "NonScopedSession", sessionmaker(engine))
    yield
    engine.dispose()


@pytest.fixture
def client(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Give a browser without a login, before an api-server that has the plugin mounted."""
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", Users())
    root = FastAPI()
    for entry in stack_plugin.apps():
        root.mount(entry["url_prefix"], entry["app"])
    with sessions_of(server["airflow"], monkeypatch):
        yield TestClient(root, follow_redirects=False)


@pytest.fixture
def anna(client: TestClient) -> TestClient:
    """The same, with the cookie of a user who may read two DAGs."""
    client.cookies.set("_token", "anna")
    return client


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


# Who sees what.


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


# What is shown.


def test_records_are_narrowed_by_each_filter(anna: TestClient, rows: Connection[Any]):
    """DAG, task, whole runs, verdict and time, alone and together; empty fields do not narrow."""
    hour = timedelta(hours=1)
    add_record(rows, name="a", promised=NOW - 1 * hour)
    add_record(rows, name="b", promised=NOW - 2 * hour, task_id="load")
    add_record(rows, name="c", promised=NOW - 3 * hour, task_id="load", verdict="met")
    add_record(rows, name="d", promised=NOW - 4 * hour, dag_id="train", verdict="pending")
    assert names(anna) == ["a", "b", "c", "d"]
    assert names(anna, dag_id="train") == ["d"]
    assert names(anna, task_id="load") == ["b", "c"]
    assert names(anna, task_id="(run)") == ["a", "d"]
    assert names(anna, verdict="met") == ["c"]
    assert names(anna, since=(NOW - 2 * hour).isoformat()) == ["a", "b"]
    assert names(anna, until=(NOW - 2 * hour).isoformat()) == ["c", "d"]
    assert names(anna, since=(NOW - 2 * hour).replace(tzinfo=None).isoformat()) == ["a", "b"]
    assert names(anna, dag_id="etl", task_id="load", verdict="missed") == ["b"]
    assert names(anna, dag_id="", task_id="", verdict="", since="") == ["a", "b", "c", "d"]
    assert names(anna, task_id="lo%") == []


def test_records_come_in_portions_with_their_number(anna: TestClient, rows: Connection[Any]):
    """The latest promise first; `total` counts all that fit."""
    for number in range(5):
        add_record(rows, name=str(number), promised=NOW - timedelta(hours=number))
    assert names(anna, limit=2, offset=1) == ["1", "2"]
    answer = anna.get("/sla/records.json?limit=2&offset=4").json()
    assert (len(answer["records"]), answer["total"], answer["limit"]) == (1, 5, 2)


def test_record_tells_why_and_what_blocked(anna: TestClient, rows: Connection[Any]):
    """Times are in UTC, whatever the zone of the database; an unfinished miss is late until now."""
    blocking = [{"task": "train[2]", "state": "queued", "why": "no worker consumes cpu_train"}]
    add_record(rows, task_id="load", reason="waits for train", blocking=blocking)
    (record,) = anna.get("/sla/records.json").json()["records"]
    assert record["blocking"] == blocking
    assert record["reason"] == "waits for train"
    assert record["promised"].endswith("Z")
    passed = datetime.now(UTC) - (NOW - timedelta(hours=1))
    assert 3600 <= record["lateness_s"] <= passed.total_seconds()


def test_lateness_of_what_finished_stands_still(anna: TestClient, rows: Connection[Any]):
    """What was met is not late at all."""
    promised = NOW - timedelta(hours=5)
    add_record(rows, name="late", promised=promised, finished=promised + timedelta(seconds=90))
    add_record(rows, name="met", promised=promised, finished=promised, verdict="met")
    told = {one["name"]: one for one in anna.get("/sla/records.json").json()["records"]}
    assert told["late"]["lateness_s"] == 90
    assert told["met"]["lateness_s"] is None


@pytest.mark.parametrize(
    ("mail", "shown", "undelivered"),
    [
        ({"state": "sent", "sent_at": NOW}, "sent", 0),
        ({}, "waiting", 0),
        ({"created_at": NOW - timedelta(minutes=5)}, "undelivered", 1),
        ({"attempts": 2, "last_error": "refused connection"}, "undelivered", 1),
        ({"state": "refused", "refused": ["team@example.org"]}, "undelivered", 1),
        ({"state": "sent", "sent_at": NOW, "refused": ["old@example.org"]}, "undelivered", 1),
        ({"state": "refused", "recipients": []}, "no recipient", 0),
    ],
)
def test_state_of_the_mail(
    anna: TestClient, rows: Connection[Any], mail: dict[str, Any], shown: str, undelivered: int
):
    """A record and the summary agree on what has not arrived."""
    add_mail(rows, add_record(rows), **mail)
    (record,) = anna.get("/sla/records.json").json()["records"]
    summary = anna.get("/sla/summary.json").json()
    assert record["mail"]["state"] == shown
    assert summary["undelivered"] == undelivered == len(summary["undelivered_mails"])
    assert summary["without_recipient"] == (shown == "no recipient")
    assert shown in anna.get("/sla/").text


def test_miss_without_a_mail_says_whether_anybody_was_named(
    anna: TestClient, rows: Connection[Any]
):
    """A mail is written with the verdict, so without one there is nothing to wait for."""
    add_record(rows, name="a", recipients=[])
    add_record(rows, name="b", promised=NOW - timedelta(hours=2))
    add_record(rows, name="c", promised=NOW - timedelta(hours=3), verdict="met", recipients=[])
    states = [one["mail"]["state"] for one in anna.get("/sla/records.json").json()["records"]]
    assert states == ["no recipient", "none", "none"]


def test_undelivered_mail_names_who_lacks_it_and_what_the_server_said(
    anna: TestClient, rows: Connection[Any]
):
    """A failure's e-mail is among them; who has theirs already is not."""
    add_mail(
        rows,
        kind="failure",
        recipients=["a@example.org", "b@example.org"],
        delivered=["a@example.org"],
        attempts=7,
        last_error="450 4.7.1 <b@example.org> try later",
    )
    (mail,) = anna.get("/sla/summary.json").json()["undelivered_mails"]
    assert (mail["kind"], mail["missing"]) == ("failure", ["b@example.org"])
    page = anna.get("/sla/").text
    assert "450 4.7.1 &lt;b@example.org&gt; try later" in page
    assert "7 tries" in page


def test_share_counts_what_was_judged_in_thirty_days(anna: TestClient, rows: Connection[Any]):
    """By DAG and SLA, the worst first; open promises and older ones do not count."""
    for number in range(3):
        add_record(rows, run_id=f"run{number}", verdict="met")
    add_record(rows, run_id="run3")
    add_record(rows, run_id="run4", verdict="pending")
    add_record(rows, run_id="old", promised=NOW - timedelta(days=31))
    add_record(rows, dag_id="train", task_id="fit", name="fit")
    summary = anna.get("/sla/summary.json").json()
    assert [(one["dag_id"], one["task_id"], one["share"]) for one in summary["slas"]] == [
        ("train", "fit", 0.0),
        ("etl", "", 0.75),
    ]
    assert (summary["met"], summary["missed"], summary["share"]) == (3, 2, 0.6)


def test_page_shows_misses_unless_asked_otherwise(anna: TestClient, rows: Connection[Any]):
    """The form keeps what was asked; an empty verdict means all."""
    add_record(rows, name="was-missed")
    add_record(rows, name="was-met", verdict="met")
    page = anna.get("/sla/").text
    assert "was-missed" in page
    assert "scheduled__was-met" not in page
    page = anna.get("/sla/?verdict=&dag_id=etl").text
    assert "scheduled__was-missed" in page
    assert "scheduled__was-met" in page
    assert 'value="etl" placeholder' in page


def test_days_of_the_page_are_both_inclusive(anna: TestClient, rows: Connection[Any]):
    """From and until the same day is that whole day."""
    add_record(rows, name="inside", promised=datetime(2026, 3, 4, 23, 59, 59, tzinfo=UTC))
    add_record(rows, name="after", promised=datetime(2026, 3, 5, tzinfo=UTC))
    page = anna.get("/sla/?since=2026-03-04&until=2026-03-04").text
    assert "scheduled__inside" in page
    assert "scheduled__after" not in page
    assert anna.get("/sla/?until=9999-12-31").status_code == 200


def test_page_turns_pages_and_keeps_the_filter(anna: TestClient, rows: Connection[Any]):
    """Fifty records each, with links to those before and after."""
    for number in range(120):
        add_record(rows, name=str(number), promised=NOW - timedelta(minutes=number))
    page = anna.get("/sla/?dag_id=etl&offset=50").text
    assert "51 – 100 of 120" in page
    links = re.findall(r'rel="(prev|next)" href="([^"]*)"', page)
    asked = "?dag_id=etl&amp;task_id=&amp;verdict=missed&amp;since=&amp;until="
    assert links == [("prev", asked), ("next", f"{asked}&amp;offset=100")]


def test_what_tasks_and_servers_say_is_shown_as_text(anna: TestClient, rows: Connection[Any]):
    """Markup in names, reasons, errors and filters stays text."""
    evil = "<script>alert(1)</script>"
    record = add_record(
        rows,
        task_id=evil,
        name=evil,
        run_id=evil,
        reason=evil,
        state=evil,
        blocking=[{"task": evil, "state": evil, "why": evil}],
    )
    add_mail(rows, record, subject=evil, last_error=evil, attempts=1, refused=[evil])
    page = anna.get("/sla/", params={"task_id": evil}).text
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_page_loads_nothing_and_runs_only_its_own_script(anna: TestClient, rows: Connection[Any]):
    """The policy allows exactly the style and the script that the page carries."""
    add_record(rows)
    answer = anna.get("/sla/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert not re.search(r'\s(style|on\w+)="', answer.text)
    assert answer.headers["cache-control"] == "private, no-store"


def test_links_lead_to_runs_and_tasks_of_the_ui(anna: TestClient, rows: Connection[Any]):
    """They open in the window, not in the frame."""
    blocking = [{"task": "fit[2]", "state": "queued", "why": ""}]
    add_record(rows, run_id="manual__2026-01-01T00:00:00+00:00", task_id="load", blocking=blocking)
    page = anna.get("/sla/").text
    run = "/dags/etl/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00"
    for link in (run, f"{run}/tasks/load", f"{run}/tasks/fit/mapped/2"):
        assert f'<a data-top target="_top" href="{link}">' in page


def test_below_a_path_every_link_begins_with_it(
    anna: TestClient, rows: Connection[Any], monkeypatch: pytest.MonkeyPatch
):
    """Airflow may be reached at https://example.org/airflow; the login leads back there as well."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.org/airflow/")
    add_record(rows)
    assert 'href="/airflow/dags/etl/runs/scheduled__run"' in anna.get("/sla/").text
    anna.cookies.clear()
    where = anna.get("/sla/").headers["location"]
    assert where == "/airflow/api/v2/auth/login?next=%2Fairflow%2Fsla%2F"


# What is said when there is nothing to show.


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


# How it is said.


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "under 1 s"), (42.9, "42 s"), (60, "1 min"), (3665, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_duration_has_two_units_at_most(seconds: float, said: str):
    """Rounded down: nothing is called later than it was."""
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("share", "said"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.29, "29 %"), (0.0, "0 %")]
)
def test_only_what_was_always_kept_is_hundred_percent(share: float, said: str):
    """A single miss among many is not rounded away."""
    assert percent(share) == said


@pytest.mark.parametrize(
    ("state", "finished", "said"),
    [
        ("running", None, "1 min 30 s so far"),
        ("failed", None, "not finished"),
        ("success", NOW, "1 min 30 s"),
    ],
)
def test_lateness_tells_whether_it_still_grows(state: str, finished: datetime | None, said: str):
    """What failed will not finish by itself."""
    record = Record(
        dag_id="etl",
        run_id="run",
        task_id="",
        name="run",
        due_from=NOW,
        promised=NOW,
        finished=finished,
        verdict="missed",
        state=state,
        lateness_s=90,
        reason="",
        blocking=[],
        recipients=[],
        mail=RecordMail(state="none"),
    )
    assert lateness(record) == said


def test_links_keep_the_path_below_which_airflow_is_reached():
    """And names that are no plain words."""
    assert run_url("/airflow", "a b", "r/1") == "/airflow/dags/a%20b/runs/r%2F1"
    assert task_url("", "etl", "r", "group.load") == "/dags/etl/runs/r/tasks/group.load"

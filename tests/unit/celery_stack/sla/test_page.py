"""What the SLA page and its JSON show."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from psycopg import Connection

from tests.unit.celery_stack.sla.page import (
    NOW,
    add_mail,
    add_record,
    names,
)


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

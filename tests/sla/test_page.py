"""The SLA page in a real browser, in Airflow's own UI: for the admin, logged out, and with a role for one DAG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect
from sqlalchemy.engine import make_url

from compose.home import REPO
from compose.secret_files import read_secret
from tests.browser import PATIENCE_MS
from tests.integration.conftest import RunningStack, running_stack

pytestmark = [pytest.mark.sla, pytest.mark.timeout(600)]

CANARY, TRAINING = "queue_canary", "wdbc_training"
READER = "canary_reader"
NOW = datetime.now(UTC)
MEETS = {TRAINING: ("", "train", "register"), "wdbc_scoring": ("",), CANARY: ("",)}
LATE_RUN = f"scheduled__{NOW - timedelta(hours=3):%Y-%m-%dT%H:00:00+00:00}"
QUEUED = (
    "Queue cpu_train has 1 waiting, 0 of them before it, and its workers' 1 slot is busy: "
    "wait for these, or start more of worker-cpu-train."
)
MISSES: list[dict[str, Any]] = [
    {
        "dag_id": TRAINING,
        "run_id": LATE_RUN,
        "task_id": "train",
        "name": "train",
        "promised": NOW - timedelta(minutes=52),
        "state": "queued",
        "reason": f"train[1]: {QUEUED}",
        "blocking": [
            {
                "task": "train[0]",
                "state": "running",
                "why": "It is running: on worker-cpu-train-1 (48 min), try 1 of 3.",
            },
            {"task": "train[1]", "state": "queued", "why": QUEUED},
        ],
        "mail": {"state": "sent", "sent_at": NOW - timedelta(minutes=51, seconds=52)},
    },
    {
        "dag_id": TRAINING,
        "run_id": LATE_RUN,
        "task_id": "",
        "name": "run",
        "promised": NOW - timedelta(minutes=14),
        "state": "running",
        "reason": "train[0]: It is running: on worker-cpu-train-1 (48 min), try 1 of 3.",
        "mail": {
            "state": "pending",
            "attempts": 4,
            "next_try_at": NOW + timedelta(hours=1),
            "last_error": "451 4.7.1 greylisted, try again later",
        },
    },
    {
        "dag_id": "wdbc_scoring",
        "run_id": f"scheduled__{NOW - timedelta(days=1):%Y-%m-%d}T02:00:00+00:00",
        "task_id": "",
        "name": "scores for the morning",
        "promised": NOW - timedelta(days=1),
        "state": "failed",
        "reason": "score failed in try 3 of 3: see its log.",
        "recipients": [],
    },
]


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    """Start the topology with one worker."""
    with running_stack(REPO / ".stack-sla-page", "worker=1", "worker-cpu-train=0") as stack:
        yield stack


@pytest.fixture(scope="module")
def run_id(stack: RunningStack) -> str:
    """Give a run that there is, and that missed its SLA by the record; others are there beside it."""
    run_id = stack.client.trigger(CANARY)
    with psycopg.connect(_monitor_url(stack), autocommit=True) as connection:
        promised = NOW - timedelta(minutes=30)
        late = {"state": "success", "finished": promised + timedelta(seconds=95)}
        sent = {"state": "sent", "sent_at": promised + timedelta(seconds=4)}
        own = {"dag_id": CANARY, "run_id": run_id, "task_id": "", "name": "run"}
        for miss in (*MISSES, own | late | {"promised": promised, "mail": sent}):
            _add_miss(connection, miss)
        for dag_id, tasks in MEETS.items():
            for task_id in tasks:
                _add_kept(connection, dag_id, task_id)
    return run_id


def _monitor_url(stack: RunningStack) -> str:
    url = make_url(read_secret(stack.home.secrets / "sla/sql_alchemy_conn"))
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _add_miss(connection: psycopg.Connection[Any], miss: dict[str, Any]) -> None:
    told = {"blocking": [], "reason": "", "finished": None, "recipients": ["ml@example.org"]} | miss
    values = {name: value for name, value in told.items() if name != "mail"}
    values |= {"verdict": "missed", "due_from": told["promised"] - timedelta(hours=1)}
    record = _insert(connection, "record", values | {"blocking": json.dumps(told["blocking"])})
    if "mail" in told:
        mail = {name: told[name] for name in ("dag_id", "run_id", "recipients")} | told["mail"]
        mail |= {"kind": "sla", "message_id": "", "body_text": "", "body_html": ""}
        subject = f"SLA missed: {told['dag_id']}, {told['task_id'] or 'the whole run'}"
        id_of_mail = _insert(connection, "mail", mail | {"subject": subject, "key": subject})
        both = (id_of_mail, record)
        connection.execute("insert into sla.mail_record (mail_id, record_id) values (%s, %s)", both)


def _insert(connection: psycopg.Connection[Any], table: str, values: dict[str, Any]) -> int:
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    query = f"insert into sla.{table} ({columns}) values ({marks}) returning id"  # noqa: S608
    row = connection.execute(query, list(values.values())).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def _add_kept(connection: psycopg.Connection[Any], dag_id: str, task_id: str) -> None:
    connection.execute(
        "insert into sla.record (dag_id, run_id, task_id, name, due_from, promised, finished, verdict, state)"
        " select %s, 'scheduled__' || at, %s, %s, at, at + interval '1 hour', at + interval '40 min', 'met', 'success'"
        " from generate_series(now() - interval '29 days', now() - interval '2 days', interval '1 day') as at",
        (dag_id, task_id, task_id or "run"),
    )


@pytest.fixture(scope="module")
def reader(stack: RunningStack) -> str:
    """Make a user whose role reads runs and tasks of one DAG only; give the password."""
    synced = stack.command("airflow", "sync-perm", "--include-dags")
    assert synced.returncode == 0, synced.stderr
    reads = ("Website", "DAG Runs", "Task Instances", f"DAG:{CANARY}")
    actions = [{"action": {"name": "can_read"}, "resource": {"name": name}} for name in reads]
    actions.append({"action": {"name": "menu_access"}, "resource": {"name": "Browse"}})
    stack.client._send("POST", "/auth/fab/v1/roles", json={"name": READER, "actions": actions})
    password = read_secret(stack.home.secrets / "admin/password")[::-1]
    user = {"username": READER, "email": "reader@example.org", "first_name": "R", "last_name": "R"}
    user_and_role: dict[str, Any] = user | {"password": password, "roles": [{"name": READER}]}
    stack.client._send("POST", "/auth/fab/v1/users", json=user_and_role)
    return password


@pytest.fixture
def page(browser: Browser, stack: RunningStack, run_id: str) -> Iterator[Page]:
    """Give a window that nobody is logged in to; nothing in it may break the page's own policy."""
    context = browser.new_context(
        base_url=stack.client.url, viewport={"width": 1440, "height": 900}, color_scheme="light"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    broken: list[str] = []
    page.on(
        "console",
        lambda said: broken.append(said.text) if "Content Security" in said.text else None,
    )
    yield page
    context.close()
    assert broken == []


def log_in(page: Page, stack: RunningStack, user: str = "admin", password: str = "") -> None:
    """Fill the login form that is shown."""
    page.fill("#username", user)
    page.fill("#password", password or read_secret(stack.home.secrets / "admin/password"))
    page.click("[type=submit]")


def open_in_ui(page: Page, query: str = "") -> FrameLocator:
    """Open the page where the menu leads to, within the UI; give its frame."""
    page.goto(f"/plugin/sla{f'/sla/{query}' if query else ''}")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="SLAs")).to_be_visible()
    return frame


def test_admin_finds_the_misses_by_the_menu_and_a_run_opens_in_the_window(
    page: Page, stack: RunningStack, run_id: str, screenshots: Path
):
    """Browse → SLAs; the filter stays in the address; the link leaves the frame for Airflow's own page."""
    page.goto("/")
    log_in(page, stack)
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="SLAs").click()
    frame = page.frame_locator("iframe")
    expect(frame.locator("table.records > tbody")).to_have_count(4)
    expect(frame.locator("#missed")).to_have_text("4")
    expect(frame.locator("#undelivered")).to_have_text("1")
    frame.get_by_text("2 blocking").click()
    expect(frame.get_by_role("link", name="train[1]")).to_be_visible()
    page.screenshot(path=screenshots / "sla-light.png")

    frame.get_by_label("DAG").fill(CANARY)
    frame.get_by_role("button", name="Show").click()
    expect(frame.locator("table.records > tbody")).to_have_count(1)
    expect(page).to_have_url(re.compile(f"/plugin/sla/sla/.*dag_id={CANARY}"))
    frame.get_by_role("link", name=run_id).click()
    expect(page).to_have_url(re.compile(f"/dags/{CANARY}/runs/"))
    expect(page.locator("iframe")).to_have_count(0)
    expect(page.get_by_text(CANARY).first).to_be_visible()


def test_page_follows_the_theme_of_the_ui_while_it_is_shown(
    page: Page, stack: RunningStack, screenshots: Path
):
    """The UI keeps its theme in the storage of the browser."""
    page.goto("/")
    log_in(page, stack)
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    page.evaluate("localStorage.setItem('theme', 'dark')")
    frame = open_in_ui(page)
    body = frame.locator("body")
    expect(body).to_have_css("background-color", "rgb(22, 29, 45)")
    frame.get_by_text("E-mails that did not arrive").click()
    expect(frame.get_by_text("451 4.7.1 greylisted").first).to_be_visible()
    page.screenshot(path=screenshots / "sla-dark.png")
    page.evaluate("localStorage.setItem('theme', 'light')")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")


def test_phone_shows_everything_without_scrolling_sideways(
    page: Page, stack: RunningStack, screenshots: Path
):
    """Rows become cards; what is long is broken."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/sla/")
    log_in(page, stack)
    expect(page.get_by_role("heading", name="SLAs")).to_be_visible()
    page.screenshot(path=screenshots / "sla-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("table.records").get_by_text("scores for the morning")).to_be_visible()


def test_login_leads_back_to_what_was_asked_for(page: Page, stack: RunningStack):
    """Logged out, the page is a way to the login, and the JSON is refused."""
    page.goto(f"/sla/?dag_id={TRAINING}")
    expect(page.locator("#password")).to_be_visible()
    log_in(page, stack)
    expect(page).to_have_url(re.compile(rf"/sla/\?dag_id={TRAINING}$"))
    expect(page.locator("table.records > tbody")).to_have_count(2)
    for name in ("records", "summary"):
        assert httpx.get(f"{stack.client.url}/sla/{name}.json").status_code == 401


def test_role_for_one_dag_sees_this_dag_alone(
    page: Page, stack: RunningStack, reader: str, screenshots: Path
):
    """Neither page nor JSON tell of the others, not even when they are asked for."""
    page.goto("/sla/?verdict=")
    log_in(page, stack, READER, reader)
    expect(page.locator("table.records .dag").first).to_have_text(CANARY)
    page.screenshot(path=screenshots / "sla-reader.png")
    assert "wdbc" not in page.content()
    assert "wdbc" not in page.request.get("/sla/records.json?limit=1000").text()
    assert "wdbc" not in page.request.get("/sla/summary.json").text()
    asked = page.request.get(f"/sla/records.json?dag_id={TRAINING}").json()
    assert asked["total"] == 0

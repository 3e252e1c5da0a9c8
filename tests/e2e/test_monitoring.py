"""What Prometheus, Alertmanager and their exporters make of a real stack under a little load.

Durations are shortened (tests/e2e/prometheus.py); expressions, metrics and mails are those of production.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import open_page
from tests.e2e.conftest import ALERT_ADDRESS, API_PORT, FLOWER_PORT, LOAD, ComposeStack
from tests.e2e.prometheus import (
    Prometheus,
    documented_metrics,
    hasten,
    panel_expressions,
    rule_expressions,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

JWT = "eyJ"  # how a token begins
PORTS = {"PROMETHEUS_PORT": "19090", "ALERTMANAGER_PORT": "19093", "MAIL_UI_PORT": "18025"}
PORTS |= {"GRAFANA_PORT": "13000"}
# What has no data after all that is below: name → why. At most one in twenty.
EXCEPTED: dict[str, str] = {}
# Metrics that are not sent in it: name → why.
NOT_SENT: dict[str, str] = {}


@dataclass
class Watched:
    """A stack with its monitors published on this machine."""

    stack: ComposeStack
    prometheus: Prometheus

    def mails(self) -> list[dict[str, Any]]:
        """Give the mails that the catcher has."""
        url = f"http://127.0.0.1:{PORTS['MAIL_UI_PORT']}/api/v1/messages"
        found: list[dict[str, Any]] = httpx.get(url, params={"limit": 500}).json()["messages"]
        return found

    def html_of(self, mail: dict[str, Any]) -> str:
        url = f"http://127.0.0.1:{PORTS['MAIL_UI_PORT']}/api/v1/message/{mail['ID']}"
        return str(httpx.get(url).json()["HTML"])

    def wait_for_alert_mail(self, alert: str, *, deadline_s: float = 90) -> dict[str, Any]:
        """Wait until `alert` fires and a mail that says so is there; give it."""
        wait_for(self.prometheus.firing, lambda names: alert in names, deadline_s=deadline_s)
        found = wait_for(
            lambda: [one for one in self.mails() if is_about(one, alert)], bool, deadline_s=30
        )
        return found[0]

    def wait_for_success(self, dag_id: str, run_id: str, *, deadline_s: float = 240) -> None:
        state = wait_for(
            lambda: self.stack.client.run_state(dag_id, run_id),
            lambda state: state in ("success", "failed"),
            deadline_s=deadline_s,
        )
        assert state == "success", dag_id


def is_about(mail: dict[str, Any], alert: str) -> bool:
    return mail["Subject"].startswith("[FIRING:") and alert in mail["Subject"].split()


@pytest.fixture(scope="module")
def watched(stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Give the stack with one worker and hasty monitors, after a little of everything has happened."""
    hasten(stack.folder / "monitoring")
    files = f"{stack.env['COMPOSE_FILE']}:compose/expose.yaml"
    exposed = replace(stack, env=stack.env | PORTS | {"COMPOSE_FILE": files})
    done = exposed.up(workers=1)
    assert done.returncode == 0, done.stdout + done.stderr
    exposed.compose("kill", "--signal", "HUP", "statsd-exporter")  # it reads its mapping again
    watched = Watched(exposed, Prometheus(f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}"))
    wait_for(watched.prometheus.is_ready, bool, deadline_s=60)
    exposed.wait_until_consumed(workers=1)
    put_load_on(watched, tmp_path_factory.mktemp("backup") / "backup.tar")
    return watched


def put_load_on(watched: Watched, backup: Path) -> None:
    """Runs that succeed, fail, retry, wait, keep and break a promise; a model, scores, a backup."""
    stack, client = watched.stack, watched.stack.client
    client.wait_for_dag("watched_pool", deadline_s=60)
    client._send("PATCH", "/api/v2/dags/watched_schedule", json={"is_paused": False})
    for dag_id in ("mail_on_failure", "watched_retry", "watched_sla", "watched_wait"):
        client.trigger(dag_id)
    ingest = client.trigger("wdbc_ingest")  # waits for a file, deferred
    load = stack.start_load(count=6, seconds=1)
    training = client.trigger("wdbc_training")
    saved = stack.run("compose/backup", str(backup))
    assert saved.returncode == 0, saved.stderr
    assert stack.wait_for_end(load) == "success"
    watched.wait_for_success("wdbc_training", training)
    # What was ingested meanwhile would be trained on again, and `cpu_train` has other guests to come.
    client._send("PATCH", "/api/v2/dags/wdbc_training", json={"is_paused": True})
    client.trigger("wdbc_generate")
    watched.wait_for_success("wdbc_ingest", ingest)
    watched.wait_for_success("wdbc_scoring", client.trigger("wdbc_scoring"))
    # A second write: of the first one of each table a rate sees nothing.
    client.trigger("wdbc_generate")
    watched.wait_for_success("wdbc_ingest", client.trigger("wdbc_ingest"))


def test_flower_names_tasks_shows_no_token_and_survives_a_restart_of_redis(
    watched: Watched, browser: Browser, screenshots: Path
):
    """Tasks that ran after it are there as DAG, task and map index, on every page of theirs."""
    stack, login = watched.stack, ("admin", watched.stack.password)
    stack.compose("restart", "redis")
    stack.wait_until_consumed(workers=1)
    run_id = stack.start_load(count=6, seconds=15)
    stack.wait_for_running(run_id, 4)
    [worker] = stack.running("worker")
    url = f"http://127.0.0.1:{FLOWER_PORT}"
    node = f"worker@{worker['Config']['Hostname']}"
    for path in (f"/api/workers?refresh=1&workername={node}", f"/worker/{node}", "/api/tasks"):
        shown = wait_for(
            lambda path=path: httpx.get(url + path, auth=login, timeout=30).text,  # type: ignore[misc]
            lambda text: "load.work[0]" in text,
            deadline_s=30,
        )
        assert JWT not in shown, path

    page = open_page(browser, f"{url}/tasks", username="admin", password=stack.password)
    expect(page.get_by_text("load.work[0]").first).to_be_visible()
    expect(page.get_by_text("execute_workload")).to_have_count(0)
    page.screenshot(path=screenshots / "flower-tasks.png")
    assert stack.wait_for_end(run_id) == "success"


def test_missed_sla_alerts(watched: Watched, browser: Browser, screenshots: Path):
    """The first miss of a task, on a young Prometheus; the mail says what, and where to read on."""
    mail = watched.wait_for_alert_mail("AirflowSlaMissed")
    assert [to["Address"] for to in mail["To"]] == [ALERT_ADDRESS]
    assert mail["From"]["Address"] == "airflow@example.org"
    html = watched.html_of(mail)
    assert "SLA of DAG watched_sla, slow, missed" in html
    assert f"http://localhost:{API_PORT}/runbook/#airflowslamissed" in html
    page = browser.new_page(viewport={"width": 760, "height": 640})
    page.set_content(html)
    page.screenshot(path=screenshots / "alert-mail.png")


def test_full_pool_alerts(watched: Watched):
    """Eight tasks want the four slots of `pg_io`."""
    watched.stack.client.trigger("watched_pool")
    watched.wait_for_alert_mail("AirflowPoolStarving")


def test_queue_that_nobody_consumes_alerts(watched: Watched):
    """The one worker is there, and was told to leave its queues; so it is told of as well."""
    [worker] = watched.stack.running("worker")
    flower = f"http://127.0.0.1:{FLOWER_PORT}/api"
    login = ("admin", watched.stack.password)
    httpx.get(f"{flower}/workers?refresh=1", auth=login, timeout=30)
    for queue in ("default", "pg_io"):
        url = f"{flower}/worker/queue/cancel-consumer/worker@{worker['Config']['Hostname']}"
        answer = httpx.post(url, params={"queue": queue}, auth=login, timeout=30)
        assert answer.status_code == 200, answer.text
    watched.stack.client.trigger(LOAD, {"count": 1, "seconds": 0})
    watched.wait_for_alert_mail("AirflowQueueNotConsumed")
    watched.wait_for_alert_mail("AirflowWorkerNotConsuming")


def test_lost_messages_alert(watched: Watched):
    """Redis forgets a queue whose one task waits; the scheduler publishes it again."""
    forget = (
        "PASSWORD=$(sed -n 's/^requirepass \"\\(.*\\)\"$/\\1/p' /run/stack/redis/redis.conf); "
        "REDISCLI_AUTH=$PASSWORD redis-cli del default"
    )
    assert watched.stack.compose("exec", "-T", "redis", "sh", "-c", forget).strip() == "1"
    watched.wait_for_alert_mail("AirflowMessagesLost", deadline_s=120)


def test_killed_worker_alerts(watched: Watched):
    """The last one of its pool: that it is gone, and the task that went with it."""
    stack = watched.stack
    run_id = stack.client.trigger("watched_loss")
    wait_for(
        lambda: [task.state for task in stack.client.tasks("watched_loss", run_id)],
        lambda states: states == ["running"],
        deadline_s=60,
    )
    stack.compose("kill", "worker-cpu-train")
    watched.wait_for_alert_mail("AirflowWorkerPoolGone")
    watched.wait_for_alert_mail("AirflowTasksLost", deadline_s=120)


@pytest.mark.parametrize("expressions", [panel_expressions, rule_expressions])
def test_every_panel_and_rule_has_data(watched: Watched, expressions: Callable[[], dict[str, str]]):
    """But for the exceptions."""
    known = expressions()
    excepted = {name: why for name, why in EXCEPTED.items() if name in known}
    wait_for(
        lambda: watched.prometheus.without_data(known),
        lambda names: set(names) <= excepted.keys(),
        deadline_s=60,
    )
    print(f"{len(known) - len(excepted)} of {len(known)} expressions have data")  # noqa: T201
    assert len(excepted) * 20 <= len(known)


@pytest.mark.parametrize(
    ("monitor", "path", "text"),
    [
        ("prometheus", "/targets", "statsd-exporter:9102"),
        ("prometheus", "/alerts", "AirflowQueueNotConsumed"),
        ("alertmanager", "/#/alerts", "AirflowWorkerPoolGone"),
    ],
)
def test_pages_of_the_monitors_show_what_is_wrong(
    watched: Watched, browser: Browser, screenshots: Path, monitor: str, path: str, text: str
):
    """Where the images are the official ones: their equals of Debian packages have no pages."""
    [container] = watched.stack.running(monitor)
    if container["Config"]["Labels"].get("stack.offline"):
        pytest.skip(f"{monitor} of this machine has no pages")
    page = open_page(browser, f"http://127.0.0.1:{PORTS[f'{monitor.upper()}_PORT']}{path}")
    expect(page.locator("body")).to_contain_text(text)
    page.screenshot(path=screenshots / f"{monitor}{path.replace('/', '-').replace('#', '')}.png")


def test_alert_links_to_its_entry_of_the_runbook(
    watched: Watched, browser: Browser, screenshots: Path
):
    """As the mail has it; the page opens without a login, and the entry is marked."""
    alerts = watched.prometheus.get("alerts")["alerts"]
    links = {one["annotations"]["runbook_url"] for one in alerts}
    assert links
    for link in links:
        page = open_page(browser, link)
        entry = page.locator(f"h2#{link.partition('#')[2]}")
        expect(entry).to_have_css("border-left-style", "solid")
        page.screenshot(path=screenshots / "runbook.png")
        page.close()


def test_exporter_of_postgres_enters_no_database_of_ours(watched: Watched):
    """Its role reads statistics, is no superuser, and opens three connections at most."""
    ask = (
        "SELECT rolsuper, rolcreaterole, rolconnlimit, has_database_privilege(oid, 'airflow', 'CONNECT'), "
        "has_database_privilege(oid, 'warehouse', 'CONNECT') FROM pg_roles WHERE rolname = 'monitoring'"
    )
    assert watched.stack.sql("postgres", ask) == "f|f|3|f|f"


def test_every_documented_metric_is_sent(watched: Watched):
    """But for the exceptions."""
    metrics = {name: name for name in documented_metrics()}
    assert set(watched.prometheus.without_data(metrics)) == NOT_SENT.keys()

"""The overlays and the daily clean-up, as they are used."""

from __future__ import annotations

import re
import socket
from dataclasses import replace

import pytest

from compose.client import AirflowClient
from tests.e2e.conftest import ComposeStack, docker_bridge, service_of, status_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXPOSED = {
    "mail": ("MAIL_UI_PORT", 18025, "/api/v1/messages"),
    "prometheus": ("PROMETHEUS_PORT", 19090, "/-/healthy"),
    "alertmanager": ("ALERTMANAGER_PORT", 19093, "/-/healthy"),
    "grafana": ("GRAFANA_PORT", 13000, "/api/health"),
}
EDITED = '''
"""### A DAG that is edited while the stack runs"""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, is_paused_upon_creation=False, default_args={{"owner": "tests"}}, doc_md=__doc__, tags=["{0}"])
def edited():
    @task(execution_timeout=timedelta(minutes=1))
    def say():
        return "{0}"

    say()


edited()
'''


def with_overlay(stack: ComposeStack, overlay: str, **settings: str) -> ComposeStack:
    """Give the same project with one more Compose file."""
    files = f"{stack.env['COMPOSE_FILE']}:compose/{overlay}"
    return replace(stack, env=stack.env | settings | {"COMPOSE_FILE": files})


def tags_of(client: AirflowClient, dag_id: str) -> list[str]:
    found = client.find_dag(dag_id) or {"tags": []}
    return [tag["name"] for tag in found["tags"]]


def test_code_edited_in_the_checkout_is_what_runs(stack: ComposeStack):
    """develop.yaml: a new DAG file shows up, a change of it too, and workers run the change."""
    develop = with_overlay(stack, "develop.yaml")
    (stack.folder / "dags/e2e").mkdir(exist_ok=True)  # where the tests' own DAGs are mounted
    file = stack.folder / "dags/edited.py"
    try:
        done = develop.up(workers=1)
        assert done.returncode == 0, done.stderr
        for version in ("first", "second"):
            file.write_text(EDITED.format(version))
            wait_for(
                lambda: tags_of(stack.client, "edited"),
                lambda tags, version=version: tags == [version],
                deadline_s=90,
            )
        run_id = stack.client.trigger("edited")
        wait_for(
            lambda: stack.client.run_state("edited", run_id),
            lambda state: state == "success",
            deadline_s=90,
        )
        assert stack.client.result("edited", run_id, "say") == "second"
    finally:
        file.unlink(missing_ok=True)
        stack.up(workers=1)


def test_exposed_pages_answer_on_this_machine_alone(stack: ComposeStack):
    """expose.yaml: each page on 127.0.0.1, none of them on another address."""
    ports = {variable: str(port) for variable, port, _ in EXPOSED.values()}
    exposed = with_overlay(stack, "expose.yaml", **ports)
    try:
        done = exposed.up(workers=1)
        assert done.returncode == 0, done.stderr
        there = {service_of(container) for container in exposed.containers()}
        assert there >= {"mail", "prometheus", "alertmanager"}
        for service in EXPOSED.keys() & there:
            _, port, page = EXPOSED[service]
            wait_for(
                lambda port=port, page=page: status_of(f"http://127.0.0.1:{port}{page}"),
                lambda status: status == 200,
                deadline_s=60,
            )
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((docker_bridge(stack), port), timeout=5)
    finally:
        stack.up(workers=1)


def test_clean_up_deletes_what_is_old_and_keeps_what_is_young(stack: ComposeStack):
    """maintenance: a log and a run past their days are gone, those of today are there."""
    old, young = (stack.start_load(count=1, seconds=0) for _ in range(2))
    for run_id in (old, young):
        assert stack.wait_for_end(run_id) == "success"
    age = f"UPDATE dag_run SET start_date = now() - interval '91 days' WHERE run_id = '{old}'"  # noqa: S608
    stack.sql("airflow", age)
    age = f"find /opt/airflow/logs -path '*{old}*' -type f -exec touch -d '31 days ago' {{}} +"
    stack.compose("exec", "-T", "worker", "sh", "-c", age)
    assert logs_of(stack, old)

    done = stack.run(
        "docker",
        "compose",
        "exec",
        "-T",
        "maintenance",
        "python",
        "-m",
        "compose.maintenance",
        "--once",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* old log files deleted$", done.stdout, re.M)
    assert logs_of(stack, old) == []
    assert logs_of(stack, young)
    runs = stack.sql("airflow", "SELECT run_id FROM dag_run").split()
    assert young in runs
    assert old not in runs


def logs_of(stack: ComposeStack, run_id: str) -> list[str]:
    find = ("find", "/opt/airflow/logs", "-path", f"*{run_id}*", "-type", "f")
    return stack.compose("exec", "-T", "worker", *find).split()

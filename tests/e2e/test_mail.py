"""What fails says so by e-mail, through the connection that the stack makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import ComposeStack
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DAG = "mail_on_failure"
ASK = (
    "import sys, urllib.request as r;"
    "print(r.urlopen('http://mail:8025/api/v1/' + sys.argv[1], timeout=10).read().decode())"
)


def ask_mail(stack: ComposeStack, path: str) -> Any:
    """Ask the mail catcher's API from inside: its port is not published."""
    return json.loads(stack.compose("exec", "-T", "worker", "python", "-c", ASK, path))


def subjects(stack: ComposeStack, run_id: str) -> list[str]:
    """Give the subjects of the caught mails that speak of the run."""
    found = ask_mail(stack, "messages?limit=50")["messages"]
    messages = [ask_mail(stack, f"message/{message['ID']}") for message in found]
    return sorted(message["Subject"] for message in messages if run_id in message["HTML"])


def test_failed_task_and_failed_run_each_send_a_mail(four_workers: ComposeStack):
    """One from the worker, one from the DAG processor, both of them from SMTP_FROM."""
    stack = four_workers
    stack.client.wait_for_dag(DAG, deadline_s=60)
    run_id = stack.client.trigger(DAG)
    wait_for(
        lambda: subjects(stack, run_id),
        lambda found: found == ["run failed", "task failed"],
        deadline_s=120,
    )
    senders = {m["From"]["Address"] for m in ask_mail(stack, "messages?limit=50")["messages"]}
    assert senders == {"airflow@example.org"}


def test_callbacks_know_the_mail_server_and_no_other_connection(stack: ComposeStack):
    """The DAG processor and the triggerer hold one connection; the api-server holds none."""
    show = "cd /run/stack; cat */connections.json 2>/dev/null || echo {}"
    for service in ("dag-processor", "triggerer", "scheduler", "api-server"):
        found = json.loads(stack.compose("exec", "-T", service, "sh", "-c", show))
        expected = {"smtp_default"} if service in ("dag-processor", "triggerer") else set()
        assert found.keys() == expected, service


@pytest.mark.parametrize(
    ("name", "value"), [("SMTP_SECURITY", "ssl"), ("SMTP_PORT", "0"), ("SMTP_FROM", "nobody")]
)
def test_wrong_mail_setting_stops_the_start_with_one_line(
    stack: ComposeStack, name: str, value: str
):
    """Nothing else starts over it: all wait for `secrets`."""
    done = stack.run(
        "docker", "compose", "run", "--rm", "--no-deps", "-T", "secrets", **{name: value}
    )
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "rror" in line]
    assert line.startswith(f"error: {name} must be ")
    assert value in line

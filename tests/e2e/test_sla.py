"""A slow task: its mail is in the mail catcher while it still runs."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import REPO, ComposeStack
from tests.e2e.test_mail import ask_mail
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DAG = "late"


def test_missed_sla_is_mailed(four_workers: ComposeStack):
    """To whom the SLA names, with what it is about and why; the record is there as well."""
    stack = four_workers
    stack.client.wait_for_dag(DAG, deadline_s=60)
    run_id = stack.client.trigger(DAG)

    def mails() -> list[str]:
        found = ask_mail(stack, "messages?limit=50")["messages"]
        told = [one for one in found if one["To"][0]["Address"] == "team@example.org"]
        texts = [ask_mail(stack, f"message/{one['ID']}")["Text"] for one in told]
        return [text for text in texts if run_id in text]

    [text] = wait_for(mails, bool, deadline_s=120)
    assert "slow" in text
    verdict = "select verdict from sla.record where dag_id = 'late'"
    assert stack.sql("airflow", verdict) == "missed"


def test_alerts_fire_and_stay_quiet_where_they_should(stack: ComposeStack):
    """As Prometheus evaluates them; the cases lie beside the rules."""
    names = sorted(path.name for path in (REPO / "monitoring/prometheus").glob("*.test.yml"))
    cases = [f"/etc/prometheus/{name}" for name in names]
    # Its temporary files take more than the container's tmpfs has.
    promtool = ("exec", "-T", "--env", "TMPDIR=/prometheus", "prometheus", "promtool")
    said = stack.compose(*promtool, "test", "rules", *cases)
    assert said.count("SUCCESS") == len(cases)

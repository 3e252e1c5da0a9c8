"""Every alert can be acted on: it names the thing, has a runbook entry, and cases that show when it fires."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from celery_stack.queues import load_declarations
from compose.home import REPO

MONITORING = REPO / "monitoring"
RULES = MONITORING / "prometheus/rules.yml"
CASES = sorted(MONITORING.glob("prometheus/*.test.yml"))
RUNBOOK = MONITORING / "runbook.md"
SCRIPT = MONITORING / "redis/queues.lua"
PARTS = ("Meaning", "Impact", "First command", "Causes", "Fix")


def read(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPO / file).read_text())
    return content


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {one["alert"]: one for group in groups for one in group["rules"] if "alert" in one}


def entries() -> dict[str, str]:
    """Give the runbook's entries by their heading."""
    _, *sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    return {heading: text for heading, _, text in (one.partition("\n") for one in sections)}


def cases(alert: str) -> list[list[Any]]:
    """Give what each case of `alert` expects."""
    tests = [test for file in CASES for test in yaml.safe_load(file.read_text())["tests"]]
    found = [case for test in tests for case in test["alert_rule_test"]]
    return [case["exp_alerts"] for case in found if case["alertname"] == alert]


@pytest.mark.parametrize("name", sorted(alerts()))
def test_alert_tells_what_how_bad_and_where_to_read_on(name: str):
    """Severity, summary, description, and the runbook entry of its own name."""
    alert = alerts()[name]
    assert name.startswith("Airflow")
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    link = f"{{{{ $externalLabels.airflow }}}}/runbook/#{name.lower()}"
    assert alert["annotations"]["runbook_url"] == link


@pytest.mark.parametrize("name", sorted(alerts()))
def test_alert_has_a_firing_and_a_quiet_case(name: str):
    """promtool runs them; it does not ask whether both are there."""
    assert any(cases(name)), "no case expects it to fire"
    assert not all(cases(name)), "no case expects it to be quiet"


def test_runbook_has_an_entry_for_each_alert_and_no_other():
    """Each with all five parts, in order."""
    assert entries().keys() == alerts().keys()
    for name, text in entries().items():
        assert tuple(re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)) == PARTS, name


def test_no_expression_hides_that_it_has_no_data():
    """`or vector(0)` makes of a metric that is missing one that is well."""
    assert "vector(" not in RULES.read_text()


def test_inhibitions_name_alerts_that_exist():
    """A renamed alert would send its consequences as mails again."""
    for rule in read("monitoring/alertmanager/alertmanager.yml")["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, value = re.split(r"=~?", matcher, maxsplit=1)
            if label == "alertname":
                assert set(value.strip('"').split("|")) <= alerts().keys(), matcher


def test_what_waits_is_counted_in_every_declared_queue():
    """By a script in Redis itself, which the exporter runs."""
    exporter = read("compose/monitoring.yaml")["services"]["redis-exporter"]
    path = exporter["environment"]["REDIS_EXPORTER_SCRIPT"]
    assert f"./monitoring/redis/queues.lua:{path}:ro" in exporter["volumes"]
    [listed] = re.findall(r"^local queues = \{(.+)\}$", SCRIPT.read_text(), re.MULTILINE)
    assert re.findall(r'"(\w+)"', listed) == list(load_declarations({}).queues)


def test_what_is_scraped_is_a_service_on_the_network_of_prometheus():
    """By the name under which it is found there."""
    services = read("compose/monitoring.yaml")["services"]
    jobs = read("monitoring/prometheus/prometheus.yml")["scrape_configs"]
    targets = [t for job in jobs for config in job["static_configs"] for t in config["targets"]]
    hosts = {target.split(":")[0] for target in targets} - {"localhost"}
    assert hosts == {"statsd-exporter", "redis-exporter", "postgres-exporter", "alertmanager"}
    for host in hosts:
        assert "metrics" in services[host]["networks"], host


def test_of_postgres_is_kept_what_is_used():
    """Its exporter knows hundreds of metrics more."""
    jobs = {one["job_name"]: one for one in read("monitoring/prometheus/prometheus.yml")["scrape_configs"]}  # fmt: skip
    [rule] = jobs["postgres"]["metric_relabel_configs"]
    assert rule["action"] == "keep"
    for name in read("monitoring/exporter_metrics.yml")["postgres_exporter"]:
        assert re.fullmatch(rule["regex"], name), name


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool; the e2e tests have it")
def test_alerts_fire_and_stay_quiet_where_they_should():
    """As Prometheus evaluates them."""
    command = ["promtool", "test", "rules", *map(str, CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

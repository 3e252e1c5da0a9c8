"""What Prometheus is told exists: names that Airflow sends, names that we send, and no others."""

from __future__ import annotations

import ast
import re
from importlib.resources import files

import pytest
import yaml

from compose.home import REPO
from monitoring.metrics_table import TABLE, exported, mapped, render

AIRFLOW_NAMES = files("airflow._shared.observability.metrics") / "metrics_template.yaml"
# Listed by Airflow, sent by none of its processes.
NEVER_SENT = {"task.queued_duration"}
OUR_CODE = ("plugins/celery_stack", "dags", "compose")
UNITS = {"counter": ("_total",), "observer": ("_seconds",)}


def airflow_names() -> set[str]:
    listed = yaml.safe_load(AIRFLOW_NAMES.read_text())["metrics"]
    return {one["name"] for one in listed} - NEVER_SENT


def our_names() -> set[str]:
    """Give the first argument of each call of `metrics.count`, `gauge` and `timing` in our code."""
    sources = [path for folder in OUR_CODE for path in (REPO / folder).rglob("*.py")]
    calls = (
        node
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    )
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "metrics"
        and call.func.attr in ("count", "gauge", "timing")
        and isinstance(call.args[0], ast.Constant)
    }


@pytest.mark.parametrize("one", mapped(), ids=lambda one: one["name"])
def test_mapped_name_is_sent_by_airflow_or_by_us(one: dict[str, str]):
    """A name that nobody sends would make a panel that is always empty."""
    pattern = re.escape(one["match"].removeprefix("airflow.")).replace(r"\*", "[^.]+")
    assert any(re.fullmatch(pattern, name) for name in airflow_names() | our_names())


def test_everything_we_send_is_mapped():
    """What is not mapped is dropped."""
    assert {f"airflow.{name}" for name in our_names()} <= {one["match"] for one in mapped()}


@pytest.mark.parametrize("one", mapped(), ids=lambda one: one["name"])
def test_metric_has_a_sane_name_and_says_what_it_is(one: dict[str, str]):
    """Its unit is in its name, its kind and its meaning are told."""
    assert re.fullmatch(r"airflow_[a-z_]+", one["name"])
    assert one["name"].endswith(UNITS.get(one["match_metric_type"], ("",)))
    assert one["name"].endswith("_total") is (one["match_metric_type"] == "counter")
    assert one["help"].endswith(".")


def test_names_are_made_once():
    """Two kinds under one name conflict in the exporter."""
    names = [one["name"] for one in mapped()]
    assert len(names) == len(set(names))


def test_what_is_not_mapped_is_dropped():
    """Airflow sends names with run ids, file paths and DAG ids in them: the last entry takes them all."""
    last = yaml.safe_load((REPO / "monitoring/statsd/mapping.yml").read_text())["mappings"][-1]
    assert (last["match"], last["match_type"], last["action"]) == (".", "regex", "drop")


def test_table_is_made_from_the_mapping():
    """Else: python -m monitoring.metrics_table."""
    assert TABLE.read_text() == render()


def test_rules_use_metrics_of_the_table_alone():
    """Recorded ones are made in the rules themselves."""
    text = (REPO / "monitoring/prometheus/rules.yml").read_text()
    used = set(re.findall(r"\b(?:airflow|redis)_[a-z0-9_]+", re.sub(r"\w+:\w+:\w+", "", text)))
    known = {one["name"] for one in mapped()} | {
        name for own in exported().values() for name in own
    }
    assert {re.sub(r"_(count|sum|bucket)$", "", name) for name in used} <= known

"""The links of alerts lead to an entry of a page."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

import stack_plugin
from celery_stack.runbook import HEADERS, render_page
from compose.home import REPO


def test_every_link_of_an_alert_leads_to_its_entry():
    """Below BASE_URL, without a login."""
    root = FastAPI()
    for entry in stack_plugin.apps():
        root.mount(entry["url_prefix"], entry["app"])
    groups = yaml.safe_load((REPO / "monitoring/prometheus/rules.yml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    for alert in alerts:
        base, _, link = alert["annotations"]["runbook_url"].partition("}}")
        assert base == "{{ $externalLabels.airflow "
        path, _, anchor = link.partition("#")
        page = TestClient(root).get(path)
        assert page.status_code == 200
        assert re.search(rf'<h2 id="{anchor}">{alert["alert"]}</h2>', page.text)


def test_page_loads_nothing_and_runs_nothing():
    """Whatever somebody writes into the runbook."""
    root = FastAPI()
    root.mount("/runbook", stack_plugin.LateApp("celery_stack.runbook"))
    page = TestClient(root).get("/runbook/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert not re.findall(r'href="(?!https?://|#)', page.text), "leads nowhere from here"


def test_style_is_the_one_that_the_policy_allows():
    """No other can be put there; each part of an entry has a line of its own."""
    page = render_page("## AirflowX\n**Meaning.** one\n**Impact.** two\n")
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{allowed}'" in HEADERS["Content-Security-Policy"]
    assert "one<br />" in page

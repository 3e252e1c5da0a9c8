"""Mails in a real browser: at the width of a phone, in light and dark, and with the longest of names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from celery_stack.sla.mail import FailedTask, Rendered, render_failure_mail, render_sla_mail
from celery_stack.sla.schema import Blocking, Miss

pytestmark = pytest.mark.sla

DUE = datetime(2026, 11, 23, 3, tzinfo=UTC)
RUN = "scheduled__2026-11-23T03:00:00+00:00"
URL = "http://localhost:8080"
PHONE, DESKTOP = 390, 1100
ENOUGH_CONTRAST = 4.5  # WCAG 2.1 AA, text of any size
LOG = """03:09:43 Fitting 10 folds for each of 24 candidates
03:21:07 60 of 240 fits done, best F2 so far 0.961
03:33:52 WARNING fold 4: failed to converge after 1000 iterations
03:41:18 121 of 240 fits done, best F2 so far 0.968"""

WEAK_TEXTS = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const contrast = element => {
    const pair = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  return [...document.body.querySelectorAll('*')]
    .filter(e => e.offsetParent && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => [e.textContent.trim().slice(0, 40), contrast(e)]).filter(([, c]) => c < ENOUGH);
}"""


def at(minutes: float) -> datetime:
    return DUE + timedelta(minutes=minutes)


def sla_mail() -> Rendered:
    waits = (
        "Queue cpu_train has 2 waiting, 1 of them before it, and its workers' 2 slots are all busy: "
        "wait for these, or start more of worker-cpu-train."
    )
    runs = "It is running: on worker-cpu-train-1 since 03:09 UTC (33 min), try 1 of 3."
    blocking = (Blocking("train[2]", "queued", waits), Blocking("train[3]", "running", runs))
    reason = "train[2] waits in queue cpu_train, whose workers' 2 slots are all busy."
    miss = Miss(1, "train", "train", DUE, at(30), None, "running", reason, blocking)
    return render_sla_mail(
        dag_id="wdbc_training",
        run_id=RUN,
        misses=[miss],
        now=at(42),
        base_url=URL,
        log_tails={"train[3]": LOG},
    )


def failure_mail() -> Rendered:
    return render_failure_mail(
        dag_id="wdbc_ingest",
        run_id=RUN,
        failed=[FailedTask("load", 3, 3, at(12))],
        not_run=3,
        now=at(13),
        base_url=URL,
        log_tails={"load": "03:12:00 ERROR Task failed\n  ValueError: no number (schema.py:88)"},
    )


def longest_mail() -> Rendered:
    """Give one in which each name is as long as Airflow takes it, without a place to break."""
    long = "x" * 250
    blocking = (Blocking(long, "queued", long),)
    misses = [Miss(1, long, long, DUE, at(30), None, "running", long, blocking)]
    misses.append(Miss(2, "run", "", DUE, at(90), at(5000), "success", ""))
    return render_sla_mail(
        dag_id=long,
        run_id=long,
        misses=misses,
        now=at(9000),
        base_url=URL,
        log_tails={long: "y" * 240},
    )


MAILS = {"sla": sla_mail, "failure": failure_mail, "longest": longest_mail}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", MAILS)
def test_mail_can_be_read(browser: Browser, screenshots: Path, name: str, width: int, scheme: str):
    """Nothing sticks out to the side, nothing is pale, no script runs, and nothing is fetched."""
    page = browser.new_page(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
        device_scale_factor=2 if width == PHONE else 1,
    )
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.set_content(MAILS[name]().html)
    page.screenshot(path=screenshots / f"mail-{name}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WEAK_TEXTS.replace("ENOUGH", str(ENOUGH_CONTRAST))) == []
    assert fetched == []
    page.close()


def test_mail_can_be_read_without_its_head(browser: Browser):
    """Many mail programs drop the style sheet: what is left is the light form."""
    page = browser.new_page(viewport={"width": PHONE, "height": 844}, color_scheme="dark")
    before, _, after = sla_mail().html.partition("<head>")
    page.set_content(before + after.partition("</head>")[2])
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert page.evaluate(WEAK_TEXTS.replace("ENOUGH", str(ENOUGH_CONTRAST))) == []
    page.close()

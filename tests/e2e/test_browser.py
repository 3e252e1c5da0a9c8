"""What people see: Airflow's UI and Flower in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import open_page
from tests.e2e.conftest import API_PORT, FLOWER_PORT, LOAD, ComposeStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_password_opens_the_ui_and_the_grid_shows_the_tasks_of_a_run(
    four_workers: ComposeStack, browser: Browser, screenshots: Path
):
    """The first user logs in, and sees a finished run with the state of each of its tasks."""
    run_id = four_workers.start_load(count=8, seconds=0)
    assert four_workers.wait_for_end(run_id) == "success"
    # By the name of AIRFLOW__API__BASE_URL: the login's cookie belongs to it.
    url = f"http://localhost:{API_PORT}"
    page = open_page(browser, url)
    page.fill("#username", "admin")
    page.fill("#password", four_workers.password)
    page.screenshot(path=screenshots / "login.png", mask=[page.locator("#password")])
    page.click("[type=submit]")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    page.screenshot(path=screenshots / "home.png")

    page.goto(f"{url}/dags/{LOAD}/runs/{run_id}")
    for task in ("plan", "work"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=task))
        expect(row.first).to_contain_text("Success")
    page.screenshot(path=screenshots / "run.png")


def test_flower_shows_each_worker_by_its_name(
    four_workers: ComposeStack, browser: Browser, screenshots: Path
):
    """Four of `worker`, one of `worker-cpu-train`, all of them online."""
    login = {"username": "admin", "password": four_workers.password}
    page = open_page(browser, f"http://127.0.0.1:{FLOWER_PORT}", **login)
    for container in four_workers.running("worker"):
        row = page.get_by_role("row").filter(has_text=f"worker@{container['Config']['Hostname']}")
        expect(row).to_contain_text("Online")
    expect(page.get_by_text(re.compile("^worker-cpu-train@")).first).to_be_visible()
    page.screenshot(path=screenshots / "flower.png")

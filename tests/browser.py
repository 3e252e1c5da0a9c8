"""The machine's own Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUMS = ("chromium", "google-chrome")
# No sandbox: root has none, and neither has a container. No errands of its own either.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
PATIENCE_MS = 60_000


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the first Chromium of the PATH."""
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert path, "expected chromium on the PATH, found none. On Debian: apt-get install chromium"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


def open_page(browser: Browser, url: str, **login: str) -> Page:
    """Open `url` in a window of its own; `login` is a username and a password for HTTP's own login."""
    credentials = {"http_credentials": login} if login else {}
    page = browser.new_page(viewport={"width": 1440, "height": 900}, **credentials)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    return page

"""What the README says of SLAs can be run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from celery_stack import sla
from celery_stack.sla import Blocking, Miss, SlaEvent

README = Path(__file__).parents[4].joinpath("README.md").read_text()


def test_what_is_imported_is_there():
    """By the names that the README gives."""
    [named] = re.findall(r"`from celery_stack\.sla import ([\w, ]+)`", README)
    for name in [*named.split(", "), "failure_mail"]:
        assert name in README
        assert callable(getattr(sla, name))


def test_callback_of_the_readme_is_called_with_an_event(monkeypatch: pytest.MonkeyPatch):
    """Every field that it uses is one."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(requests, "post", lambda _url, **given: sent.append(given["json"]))
    [block] = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "SlaEvent" in b]
    module: dict[str, Any] = {}
    exec(block, module)  # noqa: S102  # our own text
    at = datetime(2026, 11, 25, tzinfo=UTC)
    waits = (Blocking("load[2]", "queued", "no worker"),)
    miss = Miss(1, "load", "load", at, at, None, "queued", "no worker", waits)
    module["page"](SlaEvent("nightly", "run", (miss,), "http://airflow/run"))
    [message] = sent
    for part in ("nightly", "run", "load[2] (queued): no worker", "http://airflow/run"):
        assert part in message["text"]
    described = re.search(r"for miss in event\.misses:\n +# (.+)", block)
    assert described is not None
    assert all(hasattr(miss, name) for name in described[1].split(", "))

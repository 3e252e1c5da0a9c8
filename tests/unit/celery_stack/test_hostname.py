"""A worker says its own name where it has one."""

from __future__ import annotations

import pytest
from airflow.utils.net import getfqdn

from celery_stack.hostname import worker_name


def test_named_worker_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORKER_NAME is the name shown in the UI."""
    monkeypatch.setenv("WORKER_NAME", "worker-3")
    assert worker_name() == "worker-3"


@pytest.mark.parametrize("value", [None, ""])
def test_unnamed_worker_has_the_name_of_stock_airflow(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Unset and empty both mean the host's full name."""
    monkeypatch.delenv("WORKER_NAME", raising=False)
    if value is not None:
        monkeypatch.setenv("WORKER_NAME", value)
    assert worker_name() == getfqdn()

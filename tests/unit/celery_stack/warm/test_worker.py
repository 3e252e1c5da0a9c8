"""What Celery is told when a worker starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery_stack.warm.worker import bound_memory


@pytest.mark.parametrize(("mib", "kib"), [("", 1048576), ("300", 307200), ("0", None)])
def test_bound_of_a_process_is_told_in_the_unit_of_celery(
    monkeypatch: pytest.MonkeyPatch, mib: str, kib: int | None
):
    """A gibibyte unless the setting says otherwise; 0 is no bound."""
    monkeypatch.setenv("WORKER_PROCESS_MAX_MIB", mib)
    conf = SimpleNamespace()
    bound_memory(conf=conf)
    assert conf.worker_max_memory_per_child == kib

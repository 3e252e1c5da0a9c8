"""Tasks whose process a supervisor starts itself: real processes, without a stack."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from celery_stack.warm.supervisor import WarmSupervisor
from tests.unit.celery_stack.warm.conftest import is_alive
from tests.waiting import wait_for

START = {"what": SimpleNamespace(id=uuid4()), "dag_rel_path": "", "bundle_info": None}


@pytest.mark.parametrize(
    ("start", "command"),
    [("start_forked", "python"), ("start_fresh", "_child_exec_main")],
)
def test_task_dies_with_its_supervisor(monkeypatch: pytest.MonkeyPatch, start: str, command: str):
    """Forked, or in a new interpreter; while others hold its sockets open, so that it hears nothing of it."""
    monkeypatch.setattr(WarmSupervisor, "_on_child_started", lambda *_, **__: None)
    told, tell = os.pipe()
    supervisor = os.fork()
    if not supervisor:
        task = getattr(WarmSupervisor, start)(client=None, **START)
        holder = os.fork()  # else the end of its sockets would tell the task
        if holder:
            os.write(tell, f"{task.pid} {holder}".encode())
        signal.pause()
    pid, holder = map(int, os.read(told, 40).split())
    try:
        words = Path(f"/proc/{pid}/cmdline")
        wait_for(words.read_text, lambda found: command in found, deadline_s=20)
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        wait_for(lambda: is_alive(pid), lambda alive: not alive, deadline_s=20)
    finally:
        os.kill(holder, signal.SIGKILL)

"""A guardian and its template server of our own, with a DAG folder of our own; this process is the worker."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from celery_stack.warm.channel import make_pair
from celery_stack.warm.guardian import guard
from celery_stack.warm.supervisor import TemplateChild, ask_for_task
from tests.waiting import wait_for

DAG = '''
"""A DAG."""
from airflow.sdk import DAG

{top}
dag = DAG("{name}")
'''


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class Child:
    """A task's process, which waits for its supervisor to say what it is to do."""

    process: TemplateChild
    requests: socket.socket
    stdout: socket.socket
    stderr: socket.socket
    logs: socket.socket

    def end(self) -> int:
        """Hang up, as a supervisor that dies; the process finds nobody to talk to, and ends."""
        self.requests.close()
        return self.process.wait(20)


@dataclass
class Worker:
    """The end of the worker's channel that its supervisors hold, and the DAG folder."""

    folder: Path
    server: socket.socket
    guardian: int
    children: list[Child] = field(default_factory=list)

    def find_server(self) -> int:
        """Give the template server's process, once there is one."""
        (server,) = wait_for(lambda: children_of(self.guardian), bool, deadline_s=20)
        return server

    def write(self, name: str, top: str = "") -> None:
        """Write a DAG file, as one that was there long before."""
        file = self.folder / f"{name}.py"
        file.write_text(DAG.format(top=top, name=name))

    def ask(self, name: str) -> Child | None:
        """Ask for a task of the file; None if the server declines."""
        pairs = [socket.socketpair() for _ in range(4)]
        request = {"bundle": "dags", "version": None, "path": f"{name}.py"}
        process = ask_for_task(request, self.server, [theirs for _, theirs in pairs])
        for _, theirs in pairs:
            theirs.close()
        if process is None:
            return None
        child = Child(process, *(ours for ours, _ in pairs))
        self.children.append(child)
        return child

    def wait_for_task(self, name: str) -> Child:
        """Ask until the file's template is there."""
        child = wait_for(lambda: self.ask(name), lambda found: found is not None, deadline_s=30)
        assert child is not None
        return child


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Give a worker whose server makes two templates at most, and does not mind files just written."""
    bundle = {
        "name": "dags",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(tmp_path)},
    }
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # as in our workers
    monkeypatch.setenv("POLICY_EXEMPT_PATHS", "*")
    monkeypatch.setattr("celery_stack.warm.parse.SETTLED_S", 0.0)
    monkeypatch.setattr("celery_stack.warm.server.REBUILD_S", 0.0)
    monkeypatch.setattr("celery_stack.warm.guardian.FIRST_REST_S", 0.1)
    ours, theirs = make_pair()
    parent, pid = os.getpid(), os.fork()
    if not pid:
        ours.close()
        guard(theirs, parent, most=2)
    theirs.close()
    worker = Worker(tmp_path, ours, pid)
    yield worker
    for child in worker.children:
        child.requests.close()
    ours.close()
    os.waitpid(pid, 0)

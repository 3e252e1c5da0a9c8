"""Authors' callbacks: called once, whatever they write, however they end, whoever else calls."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from celery_stack.sla import on_miss, run_sla, task_sla
from celery_stack.sla.monitor import Floor, look, run
from tests.sla.looks import DUE, config_of
from tests.sla.runs import Metadata, minutes
from tests.waiting import wait_for

URL = "http://airflow.example.org"

ON_CALL = """
import json, pathlib, sys, time

HERE = pathlib.Path(__file__).parent

def page(event):
    lines = [f"{event.run_id} {m.name} {m.promised:%M} {m.blocking[0].task}" for m in event.misses]
    with (HERE / "paged.jsonl").open("a") as file:
        file.write(json.dumps(lines) + "\\n")

def broken(event):
    raise RuntimeError("no pager")

def odd(event):
    sys.stdout.buffer.write(b"\\xff" * 1_000_000)
    sys.stderr.buffer.write(b"\\xff" * 1_000_000)
    sys.exit("odd to the end")

def hang(event):
    (HERE / "hangs").touch()
    time.sleep(600)
"""


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    """Give the environment of callbacks that find the module `on_call`."""
    (tmp_path / "on_call.py").write_text(ON_CALL)
    path = [str(tmp_path), *(part for part in sys.path if part)]
    return {"PYTHONPATH": ":".join(path)}


def miss(metadata: Metadata, connection: Connection[Any], **callbacks: str) -> None:
    """Put a run that misses a promise for each task, with its callback."""
    alerts = [
        task_sla(task, minutes=20, on_miss=f"on_call.{name}") for task, name in callbacks.items()
    ]
    metadata.run(metadata.declare(alerts), due=DUE)
    for task in callbacks:
        metadata.task(task, "running", started=DUE)
    look(connection, config_of(metadata), Floor(), now=DUE + minutes(60))


def paged(folder: Path) -> list[list[str]]:
    file = folder / "paged.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def told(metadata: Metadata) -> dict[str, bool]:
    return {record["name"]: record["told_at"] is not None for record in metadata.records()}


def test_called_once_with_what_was_missed(
    metadata: Metadata, monitor: Connection[Any], env: Mapping[str, str], tmp_path: Path
):
    """In a process of its own, for all that names it; one that fails keeps nothing from going on."""
    version = metadata.declare(
        [
            run_sla(minutes=30, on_miss="on_call.page"),
            task_sla("load", minutes=20, on_miss="on_call.page"),
            task_sla("train", minutes=20, on_miss="on_call.broken"),
        ]
    )
    metadata.run(version, due=DUE)
    metadata.task("load", "running", started=DUE)
    metadata.task("train", "running", started=DUE)
    look(monitor, config_of(metadata), Floor(), now=DUE + minutes(60))
    for _ in range(2):
        on_miss.call_back(monitor, env, URL)
    promised = [f"{DUE + minutes(number):%M}" for number in (30, 20)]
    assert paged(tmp_path) == [[f"run run {promised[0]} load", f"run load {promised[1]} load"]]
    assert all(told(metadata).values())


def test_what_it_writes_may_be_anything_and_any_length(
    metadata: Metadata,
    monitor: Connection[Any],
    env: Mapping[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """The log keeps the end of it; the next ones are called."""
    log = logging.Logger("on_miss")  # Airflow's configuration keeps the module's own from here
    log.addHandler(caplog.handler)
    monkeypatch.setattr(on_miss, "logger", log)
    miss(metadata, monitor, load="odd", train="page")
    on_miss.call_back(monitor, env, URL)
    assert len(paged(tmp_path)) == 1
    assert all(told(metadata).values())
    [said] = [record.getMessage() for record in caplog.records if record.name == "on_miss"]
    assert "odd to the end" in said
    assert len(said) < 2 * on_miss.KEPT_OF_STDERR


def test_one_that_hangs_is_ended(
    metadata: Metadata,
    monitor: Connection[Any],
    env: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """It is not called again, and the next one is."""
    monkeypatch.setattr(on_miss, "TIMEOUT_S", 1)
    miss(metadata, monitor, load="hang", train="page")
    on_miss.call_back(monitor, env, URL)
    assert len(paged(tmp_path)) == 1
    assert all(told(metadata).values())


def test_one_that_cannot_be_called_keeps_no_other_from_it(
    metadata: Metadata,
    monitor: Connection[Any],
    env: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Whatever the system says of its process."""
    usual = on_miss._run

    def run_but_broken(path: str, *given: Any) -> bool:
        if path == "on_call.broken":
            raise OSError("no process left")
        return usual(path, *given)

    monkeypatch.setattr(on_miss, "_run", run_but_broken)
    miss(metadata, monitor, load="broken", train="page")
    on_miss.call_back(monitor, env, URL)
    assert len(paged(tmp_path)) == 1


def test_two_that_call_at_the_same_time_call_once(
    metadata: Metadata, monitor: Connection[Any], env: Mapping[str, str], tmp_path: Path
):
    """Should both lead for a moment, one has announced it."""
    for number in range(4):
        metadata.run(
            metadata.declare([run_sla(minutes=20, on_miss="on_call.page")]), f"{number}", due=DUE
        )
        metadata.task("load", "running", run_id=f"{number}", started=DUE)
    look(monitor, config_of(metadata), Floor(), now=DUE + minutes(60))

    def call() -> None:
        with psycopg.connect(metadata.sla_url, autocommit=True) as connection:
            on_miss.call_back(connection, env, URL)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.split()[0] for [line] in paged(tmp_path)) == ["0", "1", "2", "3"]


def test_call_of_one_that_died_meanwhile_is_made_again(
    metadata: Metadata, monitor: Connection[Any], env: Mapping[str, str], tmp_path: Path
):
    """Not at once: it may live."""
    miss(metadata, monitor, load="page")
    monitor.execute("update sla.record set called_at = now()")
    on_miss.call_back(monitor, env, URL)
    assert paged(tmp_path) == []
    monitor.execute("update sla.record set called_at = now() - interval '4 minutes'")
    on_miss.call_back(monitor, env, URL)
    assert len(paged(tmp_path)) == 1


def test_hanging_callback_holds_up_neither_verdicts_nor_mails_nor_the_end(
    metadata: Metadata, monitor: Connection[Any], env: Mapping[str, str], tmp_path: Path
):
    """A monitor that stops ends it, and leaves the call to the next one."""
    miss(metadata, monitor, load="hang")
    stop = threading.Event()
    config = config_of(metadata, callback_env=env)
    watching = threading.Thread(target=run, args=(config, stop))
    watching.start()
    try:
        wait_for(lambda: tmp_path / "hangs", Path.exists, deadline_s=30)
        metadata.run(metadata.declare([run_sla(minutes=20)]), "other", due=DUE)
        wait_for(
            lambda: {mail["run_id"]: mail["attempts"] for mail in metadata.mails()},
            lambda attempts: attempts.get("other", 0) > 0,
            deadline_s=30,
        )
        assert told(metadata)["load"] is False
    finally:
        stop.set()
        watching.join(timeout=30)
    assert not watching.is_alive()
    [record] = [record for record in metadata.records() if record["name"] == "load"]
    assert (record["called_at"], record["told_at"]) == (None, None)

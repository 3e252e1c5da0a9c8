"""What runs inside the containers: the guard, the secrets volumes, maintenance, Flower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from unittest.mock import MagicMock

import psutil
import pytest

from celery_stack.queues import load_declarations
from celery_stack.settings import SettingError, Settings
from compose.commands import worker_command
from compose.entrypoint import check_settings, command_of
from compose.flower import OPEN_PATHS, close_open_pages
from compose.guard import add_to_task_log, logs_of_running_tasks, task_processes
from compose.maintenance import prune_logs
from compose.secret_files import read_secret
from compose.secret_volumes import fill_volumes, redis_configuration
from tests.waiting import wait_for


def test_worker_runs_the_same_command_as_without_docker():
    """The guard gets it whole, with the queues and the bound it has to know."""
    settings, declarations = Settings.from_env({}), load_declarations({})
    command = command_of("worker", settings, declarations)
    own = worker_command(declarations.workers["worker"], name="worker")
    assert command[-len(own) :] == own
    assert command[command.index("--stop-timeout-s") + 1] == "60"


@pytest.mark.parametrize("value", ["abc", "0", "257", "-1"])
def test_wrong_setting_is_refused_before_anything_starts(value: str):
    with pytest.raises(SettingError, match=f"WORKER_CONCURRENCY must be .* got '{value}'"):
        check_settings({"WORKER_CONCURRENCY": value})


def test_unknown_service_is_refused_with_the_known_ones():
    with pytest.raises(SettingError, match=r"worker-cpu-train, got 'worker-gpu'\."):
        command_of("worker-gpu", Settings.from_env({}), load_declarations({}))


def test_guard_finds_the_tasks_below_its_worker_whoever_forked_them():
    """One below a slot, one below a template, not what they start themselves; by their titles."""
    task = (
        "import os, subprocess, setproctitle, time; os.setpgid(0, 0); "
        "subprocess.Popen(['sleep', '30'], start_new_session=True); "
        "setproctitle.setproctitle('airflow worker -- some-id'); time.sleep(30)"
    )
    slot = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {task!r}]).wait()"
    server = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {slot!r}]).wait()"
    worker = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {slot!r}]); "
        f"subprocess.Popen([sys.executable, '-c', {server!r}]).wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", worker])
    family = psutil.Process(process.pid)
    try:
        wait_for(
            lambda: list(task_processes(process.pid).values()),
            lambda found: found == ["some-id", "some-id"],
            deadline_s=20,
        )
    finally:
        for one in [*family.children(recursive=True), family]:
            one.kill()
        process.wait(10)


def test_reason_is_added_to_the_logs_of_running_tasks(tmp_path, monkeypatch):
    """One JSON line, as Airflow's own, in the file that the task's workload names."""
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    workload = json.dumps({"log_path": "attempt=1.log", "ti": {"id": "some-id"}})
    app = MagicMock()
    app.control.inspect.return_value.active.return_value = {"worker@here": [{"args": [workload]}]}
    assert logs_of_running_tasks(app, "worker@here") == {"some-id": tmp_path / "attempt=1.log"}
    add_to_task_log(tmp_path / "attempt=1.log", "stopped")
    assert json.loads((tmp_path / "attempt=1.log").read_text())["event"] == "stopped"


def test_own_secrets_are_taken_over_and_the_rest_is_made(tmp_path):
    """A file of one's own reaches every address that is derived from it."""
    own = tmp_path / "own"
    (own / "redis").mkdir(parents=True)
    (own / "redis/password").write_text('my "own" password\n')
    (own / "elsewhere").mkdir()
    (own / "elsewhere/file").write_text("ignored")
    folder = tmp_path / "volumes"
    fill_volumes(folder, own, Settings())
    assert read_secret(folder / "redis/password") == 'my "own" password'
    assert "my%20%22own%22%20password@redis:6379" in read_secret(folder / "worker/broker_url")
    assert 'requirepass "my \\"own\\" password"' in (folder / "redis/redis.conf").read_text()
    assert not (folder / "elsewhere").exists()


def test_second_fill_changes_no_file(tmp_path):
    """Readers of a running stack keep what they have."""
    fill_volumes(tmp_path, tmp_path / "none", Settings())
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()}
    fill_volumes(tmp_path, tmp_path / "none", Settings())
    assert {path: path.stat().st_ino for path in before} == before


def test_redis_keeps_what_is_queued():
    lines = redis_configuration("secret").splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction"} <= set(lines)


def test_old_logs_go_and_young_ones_stay(tmp_path):
    """Folders that become empty go at a later look, when they are old themselves."""
    old, young = tmp_path / "run/old.log", tmp_path / "run/young.log"
    old.parent.mkdir()
    for path in (old, young):
        path.write_text("log")
    month_ago = time.time() - 31 * 86400
    os.utime(old, (month_ago, month_ago))
    assert prune_logs(tmp_path, days=30) == 1
    assert [path.name for path in old.parent.iterdir()] == ["young.log"]
    assert prune_logs(tmp_path, days=32) == 0


def test_flower_pages_that_anybody_may_read_ask_for_the_login():
    """Both of them; a Flower without them is refused."""
    from flower.urls import handlers

    mine = list(handlers)
    close_open_pages(mine)
    closed = {entry[0]: entry[1].__name__ for entry in mine if isinstance(entry, tuple)}
    assert all(closed[path].startswith("Closed") for path in OPEN_PATHS)
    with pytest.raises(RuntimeError, match="Expected Flower to have the pages"):
        close_open_pages([])

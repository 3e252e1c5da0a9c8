"""Backup and restore, rotated secrets, workers of another project: each leaves a stack that works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from celery_stack.queues import load_declarations
from celery_stack.warehouse.role import connection_limit
from tests.e2e.conftest import (
    API_PORT,
    LOAD,
    ComposeStack,
    copy_checkout,
    docker_bridge,
    make_stack,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HERE = ("--project-directory", ".")
REMOTE_FILES = "compose/remote-worker.yaml:tests/e2e/remote.yaml"


VERSION = "SELECT version_num FROM alembic_version"
LIMIT = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'warehouse'"
DROP_TABLES = """DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE tableowner = 'warehouse' LOOP
    EXECUTE format('DROP TABLE %I CASCADE', name);
  END LOOP;
END $$"""


def secrets_of(stack: ComposeStack) -> str:
    show = "cd /run/stack; for f in */*; do sha256sum $f; done"
    return stack.compose("run", "--rm", "--no-deps", "-T", "secrets", "sh", "-c", show)


def run_a_little(stack: ComposeStack) -> str:
    run_id = stack.start_load(count=4, seconds=0)
    assert stack.wait_for_end(run_id) == "success"
    return run_id


def test_backup_brings_back_what_was_wiped(four_workers: ComposeStack, tmp_path: Path):
    """Runs, warehouse, artifacts and passwords are there again, and the stack works.

    The start after it migrates the warehouse, and limits its role as on a fresh stack.
    """
    stack, file = four_workers, str(tmp_path / "backup.tar")
    run_id = run_a_little(stack)
    version = stack.sql("warehouse", VERSION)
    stack.sql("warehouse", DROP_TABLES)  # as in a backup of before the migrations
    stack.sql("warehouse", "CREATE TABLE kept AS SELECT 42 AS answer")
    write = "mkdir -p /opt/airflow/artifacts/e2e && echo kept > /opt/airflow/artifacts/e2e/file"
    stack.compose("exec", "-T", "worker", "sh", "-c", write)
    secrets = secrets_of(stack)

    saved = stack.run("compose/backup", file)
    assert saved.returncode == 0, saved.stderr
    assert Path(file).stat().st_mode & 0o077 == 0
    stack.wipe()
    restored = stack.run("compose/restore", file)
    assert restored.returncode == 0, restored.stdout + restored.stderr

    assert stack.up(workers=4).returncode == 0
    stack.wait_until_consumed(workers=4)
    assert secrets_of(stack) == secrets
    assert stack.client.run_state(LOAD, run_id) == "success"
    assert stack.sql("warehouse", "SELECT answer FROM kept") == "42"
    assert stack.sql("warehouse", VERSION) == version
    assert stack.sql("warehouse", LIMIT) == str(connection_limit(load_declarations({})))
    assert (
        stack.compose("exec", "-T", "worker", "cat", "/opt/airflow/artifacts/e2e/file") == "kept\n"
    )
    run_a_little(stack)


def test_rotated_secrets_open_what_the_old_ones_did(four_workers: ComposeStack):
    """New passwords of Redis and both roles; every worker is back and runs tasks."""
    stack = four_workers
    before = set(secrets_of(stack).splitlines())
    done = stack.run("compose/rotate-secrets", UP_ARGS=" ".join(stack.scale))
    assert done.returncode == 0, done.stdout + done.stderr
    changed = {line.split()[1] for line in set(secrets_of(stack).splitlines()) - before}
    assert {"redis/password", "postgres/airflow", "postgres/sla", "postgres/warehouse"} <= changed
    assert not changed & {"control/fernet_key", "admin/password", "postgres/superuser"}
    stack.wait_until_consumed(workers=4)
    run_a_little(stack)


def test_worker_of_another_project_runs_the_tasks(
    stack: ComposeStack, tmp_path_factory: pytest.TempPathFactory
):
    """With no worker of its own the stack is served by one that reaches it over published ports."""
    address = docker_bridge(stack)
    published = {"BIND_ADDRESS": address, "REDIS_PUBLIC_PORT": "16390"}
    published |= {"POSTGRES_PUBLIC_PORT": "15490"}
    files = f"{stack.env['COMPOSE_FILE']}:compose/for-remote-workers.yaml"
    served = replace(stack, env=stack.env | published | {"COMPOSE_FILE": files})
    folder = copy_checkout(tmp_path_factory.mktemp("other-host"))
    api_url = f"http://{address}:{API_PORT}"
    other = make_stack(folder, "stack-e2e-remote", COMPOSE_FILE=REMOTE_FILES, API_URL=api_url)
    try:
        started = served.up(workers=0)
        assert started.returncode == 0, started.stderr
        made = served.run("compose/worker-secrets", address, str(folder / "worker-secrets"))
        assert made.returncode == 0, made.stderr
        other.compose(*HERE, "up", "-d", "--scale", "worker-cpu-train=0")
        wait_for(
            lambda: other.compose(*HERE, "ps", "worker"),
            lambda shown: "(healthy)" in shown,
            deadline_s=120,
        )
        run_id = run_a_little(served)
        workers = {w for found in served.states(run_id).values() for w in found}
        containers = other.compose(*HERE, "ps", "--quiet", "worker").split()
        assert workers == {name[:12] for name in containers}
    finally:
        other.compose(*HERE, "down", "--volumes", "--timeout", "5")
        stack.up(workers=1)

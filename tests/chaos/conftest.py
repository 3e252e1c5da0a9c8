"""The stack that faults are tried on: from a clean copy of the checkout, with four workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.ledger import EFFECTS
from tests.chaos.scene import DAG, WORKERS
from tests.e2e.conftest import ComposeStack, copy_checkout, make_stack

PROJECT = "stack-chaos"
FILES = "compose.yaml:tests/chaos/compose.yaml"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """Start the stack, and delete it at the end.

    To work on the tests: CHAOS_KEEP names a folder for the clone, and the stack stays.
    """
    kept = os.environ.get("CHAOS_KEEP")
    folder = copy_checkout(Path(kept) if kept else tmp_path_factory.mktemp("clone"))
    (folder / "ledger").mkdir(exist_ok=True)
    (folder / "ledger").chmod(0o777)
    own = {"COMPOSE_FILE": FILES, "AIRFLOW_IMAGE": f"airflow-celery-stack:{PROJECT}"}
    made = make_stack(folder, PROJECT, API_PORT="18483", FLOWER_PORT="15885", **own)
    stack = replace(made, dag=DAG)
    down = ("docker", "compose", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    if not kept:
        stack.run(*down)
    try:
        stack.compose("build", "secrets")
        started = stack.up(workers=WORKERS)
        assert started.returncode == 0, started.stdout + started.stderr
        stack.wait_until_consumed(workers=WORKERS, deadline_s=300)
        stack.sql("warehouse", EFFECTS)
        yield stack
    finally:
        if not kept:
            stack.run(*down)

"""A stack that faults are tried on."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from compose.home import REPO
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, running_stack

WORKER_SLOTS = 4
PARALLELISM = 16


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """Give a stack with one worker of four slots; what bounds a recovery is as it is by default."""
    folder, dags = REPO / ".stack-faults", REPO / "tests/faults/dags"
    with running_stack(
        folder, "worker=1", dags_of_tests=dags, PARALLELISM=str(PARALLELISM), DAG_REFRESH_S="5"
    ) as stack:
        yield stack


def program(stack: RunningStack, name: str) -> psutil.Process:
    """Give the process of a program that the supervisor runs."""
    programs = {one["name"]: one["pid"] for one in Supervisor(stack.home).processes()}
    return psutil.Process(programs[name])

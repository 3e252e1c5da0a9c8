"""However a stack ends, nothing is left running; however it ended, the next start works.

These stacks run beside the one of the other tests: two stacks on one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_stack.queues import DECLARATION_FILE
from compose.home import REPO, StackHome
from compose.status import consumed_queues
from compose.supervise import Supervisor
from tests.integration.conftest import (
    RunningStack,
    connect_to,
    living,
    stack_command,
    stack_environment,
)
from tests.readme import code_block
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
CANARY = "queue_canary"
SUNG = "SELECT queue, hostname FROM task_instance WHERE task_id = 'high_io' AND state = 'success'"


@contextmanager
def empty_home(name: str) -> Iterator[StackHome]:
    """Give an empty home for a stack beside the running one, and clear it away."""
    home = StackHome(REPO / ".stack-test" / name)
    try:
        yield home
    finally:
        Supervisor(home).stop(patience_s=10)
        shutil.rmtree(home.root, ignore_errors=True)


@pytest.fixture
def second_home(stack: RunningStack) -> Iterator[StackHome]:
    with empty_home("another home") as home:
        yield home


def test_demo_interrupted_while_it_starts_leaves_no_process(second_home: StackHome):
    """Ctrl-C between two steps: exit code 130 and nothing of it is alive."""
    interrupt_demo(stack_environment(second_home.root), "✓ Redis")
    assert living(second_home) == []


@pytest.fixture(scope="module")
def second_stack(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    """Start a stack beside the running one, with workers for the README's queue of one's own alone."""
    with empty_home("second home") as home:  # a path with a space
        file = tmp_path_factory.mktemp("queues") / "queues.toml"
        file.write_text(f"{DECLARATION_FILE.read_text()}\n{code_block('toml', 'high_io')}")
        env = stack_environment(home.root, QUEUES_FILE=str(file))
        scale = ("worker-high-io=2", "worker=0", "worker-cpu-train=0")
        started = stack_command(env, "up", "--scale", *scale)
        assert started.returncode == 0, started.stdout
        yield connect_to(home, env)


def test_queue_of_ones_own_has_workers_and_runs_tasks(second_stack: RunningStack):
    """The README's `high_io`: two workers consume it, and the canary's task on it is done by one."""
    queues = consumed_queues(second_stack.home)
    assert queues["worker-high-io-1"] == queues["worker-high-io-2"] == ["high_io"]
    second_stack.client.wait_for_dag(CANARY, deadline_s=90)
    # If the clock has started a run, ours waits, and that one's task is seen.
    second_stack.client.trigger(CANARY)
    task, *_ = wait_for(lambda: second_stack.metadata(SUNG), bool, deadline_s=60)
    assert task.queue == "high_io"
    assert task.hostname.startswith("worker-high-io-")


def test_killed_supervisor_takes_its_programs_along_and_the_next_start_works(
    stack: RunningStack, second_stack: RunningStack
):
    """After a kill -9 of the supervisor a demo starts again; Ctrl-C while it trains ends all of it."""
    home = second_stack.home
    assert not set(ports(home)) & set(ports(stack.home)), "two stacks share a port"
    supervisor = json.loads((home.run / "session.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: living(home), lambda found: found == [], deadline_s=60)
    interrupt_demo(second_stack.env, "  load: running")
    assert living(home) == []


def interrupt_demo(env: dict[str, str], moment: str) -> None:
    """Start a demo, and send it a Ctrl-C once it prints a line that begins with `moment`."""
    command = [sys.executable, "-m", "compose.local", "demo"]
    demo = subprocess.Popen(command, env=env, cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    seen = next((line for line in demo.stdout if line.startswith(moment)), None)
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert seen, rest
    assert demo.returncode == 130


def test_commands_work_from_another_directory(stack: RunningStack, tmp_path: Path):
    """`make -C` finds the stack that runs; a scaled worker pool shows each of its workers."""
    make = ["make", "-C", str(REPO), "status"]
    done = subprocess.run(make, env=stack.env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker-2" in done.stdout


def test_logs_follow_the_programs_that_were_asked_for(stack: RunningStack):
    """`make logs SERVICE=worker` shows both workers, and nothing of the scheduler."""
    command = ["make", "logs", "SERVICE=worker"]
    tail = subprocess.Popen(
        command,
        env=stack.env,
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the interrupt reaches tail too, as from a terminal
    )
    assert tail.stdout is not None
    headers: list[str] = []
    try:
        for line in tail.stdout:
            if line.startswith("==>"):
                headers.append(Path(line.split()[1]).name)
            if len(headers) == 2:
                break
    finally:
        os.killpg(tail.pid, signal.SIGINT)
        tail.communicate(timeout=30)
    assert headers == ["worker-1.log", "worker-2.log"]


def test_wrong_setting_is_one_line_and_starts_nothing(second_home: StackHome):
    """A wrong value names variable, value and expectation."""
    env = stack_environment(second_home.root, WORKER_CONCURRENCY="abc")
    refused = stack_command(env, "up")
    assert refused.returncode == 1
    assert refused.stdout.splitlines() == [
        "error: WORKER_CONCURRENCY must be a whole number from 1 to 256, got 'abc'. Set it in .env."
    ]
    assert not second_home.root.exists()


def ports(home: StackHome) -> list[int]:
    record = json.loads(home.ports_file.read_text())
    return [port for name, port in record.items() if not name.endswith("_wanted")]

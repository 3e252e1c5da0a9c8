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
from pathlib import Path

import pytest

from compose.home import REPO, StackHome
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack, living, stack_command, stack_environment
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def second_home(stack: RunningStack) -> Iterator[StackHome]:
    """Give an empty home for a stack beside the running one, and clear it away."""
    home = StackHome(REPO / ".stack-test" / "second home")  # a path with a space
    yield home
    Supervisor(home).stop(patience_s=10)
    shutil.rmtree(home.root, ignore_errors=True)


def test_demo_interrupted_while_it_starts_leaves_no_process(second_home: StackHome):
    """Ctrl-C between two steps: exit code 130 and nothing of it is alive."""
    interrupt_demo(stack_environment(second_home.root), "✓ Redis")
    assert living(second_home) == []


def test_killed_supervisor_takes_its_programs_along_and_the_next_start_works(
    stack: RunningStack, second_home: StackHome
):
    """After a kill -9 of the supervisor a demo starts again; Ctrl-C while it trains ends all of it."""
    env = stack_environment(second_home.root)
    first = stack_command(env, "up")
    assert first.returncode == 0, first.stdout
    assert not set(ports(second_home)) & set(ports(stack.home)), "two stacks share a port"
    supervisor = json.loads((second_home.run / "session.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: living(second_home), lambda found: found == [], deadline_s=60)
    interrupt_demo(env, "  load: running")
    assert living(second_home) == []


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

"""A stack with a mixed load on it, and the ways to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.ledger import Execution, open_executions, read_executions
from tests.e2e.conftest import ComposeStack, service_of
from tests.waiting import wait_for

DAG = "mixed"
WORKERS = 4
WORKER_SERVICES = ("worker", "worker-cpu-train")

KILL = "import os, sys; [os.kill(int(pid), 9) for pid in sys.argv[1:]]"

Container = dict[str, Any]


@dataclass
class Scene:
    """The stack, and the run that goes on in it."""

    stack: ComposeStack
    run_id: str

    @property
    def ledger(self) -> Path:
        return self.stack.folder / "ledger"

    def executions(self) -> list[Execution]:
        return read_executions(self.ledger, self.run_id)

    def wait_for_progress(self, done: int, deadline_s: float = 120) -> None:
        """Wait until `done` executions have ended, and others run."""
        wait_for(
            lambda: sum(e.done_at is not None for e in self.executions()),
            lambda count: count >= done,
            deadline_s=deadline_s,
        )

    def wait_for_open(self, task_id: str, *, age_s: float = 0.3) -> Execution:
        """Wait until a task of `task_id` is in the middle of its work; give its execution."""

        def look() -> list[Execution]:
            found = open_executions(self.executions(), task_id)
            return [e for e in found if time.time() - e.begun_at >= age_s]

        return wait_for(look, bool, deadline_s=90)[-1]

    def container_of(self, execution: Execution) -> Container:
        """Give the container whose host name the execution noted."""
        return next(c for c in self.stack.containers() if c["Config"]["Hostname"] == execution.host)

    def workers(self) -> list[Container]:
        """Give the running containers of all worker pools."""
        return [c for c in self.stack.containers() if service_of(c) in WORKER_SERVICES and runs(c)]

    def one(self, service: str) -> Container:
        """Give a running container of `service`."""
        return self.stack.running(service)[0]

    def up(self, workers: int, *scale: str) -> None:
        """Bring the stack to so many workers, and to a `service=number` where another is given."""
        more = tuple(word for given in scale for word in ("--scale", given))
        done = replace(self.stack, scale=self.stack.scale + more).up(workers)
        assert done.returncode == 0, done.stdout + done.stderr

    def redis(self, *words: str) -> str:
        """Run a command of Redis."""
        login = 'REDISCLI_AUTH=$(cat /run/stack/redis/password) redis-cli "$@"'
        return self.stack.compose("exec", "-T", "redis", "sh", "-c", login, "-", *words).strip()


def runs(container: Container) -> bool:
    return bool(container["State"]["Running"])


def kill_hard(containers: list[Container]) -> None:
    """SIGKILL the first process of each, and with it all others.

    What `docker kill` ends, Docker does not start again; this it takes for the crash that it is.
    Without root a container of its own does it, a second later.
    """
    pids = [str(container["State"]["Pid"]) for container in containers]
    if os.geteuid() == 0:
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        return
    among_all = ("run", "--rm", "--pid", "host", "--user", "0", "--network", "none")
    docker(
        *among_all, "--entrypoint", "python", containers[0]["Config"]["Image"], "-c", KILL, *pids
    )


def docker(*words: str) -> str:
    """Run `docker …`; give its standard output."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def addresses(containers: list[Container]) -> list[str]:
    """Give every address that the containers have."""
    networks = [n for c in containers for n in c["NetworkSettings"]["Networks"].values()]
    return [network["IPAddress"] for network in networks if network["IPAddress"]]


def cut(workers: list[Container], servers: list[Container]) -> Callable[[], None]:
    """Drop silently what goes between workers and servers; give what undoes it. Takes root."""
    assert os.geteuid() == 0, "Expected root, which cuts the networks of containers. Use sudo."
    rules = [
        (str(worker["State"]["Pid"]), chain, flag, address)
        for worker in workers
        for address in addresses(servers)
        for chain, flag in (("INPUT", "-s"), ("OUTPUT", "-d"))
    ]

    def change(how: str) -> None:
        for pid, chain, flag, address in rules:
            command = ["nsenter", "-t", pid, "-n", "iptables", how, chain, flag, address]
            subprocess.run([*command, "-j", "DROP"], check=how == "-I", capture_output=True)

    change("-I")
    return lambda: change("-D")

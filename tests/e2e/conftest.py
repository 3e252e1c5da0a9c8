"""A Compose stack of the tests' own: from a clean copy of the checkout, with its own name and ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from compose.client import AirflowClient
from compose.home import REPO
from tests.waiting import wait_for

PROJECT = "stack-e2e"
API_PORT, FLOWER_PORT = "18081", "15556"
ONE_SHOTS = {"secrets", "settings", "init"}
LOAD = "load"
ALERT_ADDRESS = "on-duty@example.org"
HEALTHY_DEADLINE_S = 240
SQL = 'PGPASSWORD=$(cat /run/stack/postgres/superuser) psql -h 127.0.0.1 -U postgres -tAd "$1" -c "$2"'


@dataclass
class ComposeStack:
    """A project of Compose, and what the tests ask of it."""

    folder: Path
    env: dict[str, str]
    scale: tuple[str, ...] = ()
    dag: str = LOAD

    def run(
        self, *command: str, deadline_s: float = 300, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy of the checkout; `settings` go on top of its environment."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s,
        )

    def compose(self, *words: str, **settings: str) -> str:
        """Run `docker compose …`; give its standard output."""
        done = self.run("docker", "compose", *words, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.replace("\x1b[2K", "")  # Compose clears lines, terminal or not

    def up(self, workers: int, **settings: str) -> subprocess.CompletedProcess[str]:
        """Bring the stack into the state that `settings` and the number of workers describe."""
        scale = ["--scale", f"worker={workers}", *self.scale]
        return self.run("docker", "compose", "up", "-d", *scale, **settings)

    def wipe(self) -> None:
        """Remove every container and every volume of the project."""
        self.compose("rm", "--stop", "--force")
        label = f"label=com.docker.compose.project={self.env['COMPOSE_PROJECT_NAME']}"
        volumes = self.run("docker", "volume", "ls", "--quiet", "--filter", label).stdout.split()
        done = self.run("docker", "volume", "rm", *volumes)
        assert done.returncode == 0, done.stderr

    def sql(self, database: str, statement: str) -> str:
        """Run a statement as the superuser; give its rows, one a line."""
        words = ("exec", "-T", "postgres", "sh", "-c", SQL, "-", database, statement)
        return self.compose(*words).strip()

    def containers(self) -> list[dict[str, Any]]:
        """Give what `docker inspect` says of every container of the project."""
        names = self.compose("ps", "--all", "--quiet").split()
        done = subprocess.run(["docker", "inspect", *names], capture_output=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def running(self, service: str) -> list[dict[str, Any]]:
        """Give the running containers of `service`."""
        return [c for c in self.containers() if service_of(c) == service and c["State"]["Running"]]

    def unhealthy(self) -> dict[str, str]:
        """Name the containers that are not as they should be, with their state."""
        states = {}
        for container in self.containers():
            state = container["State"]
            if service_of(container) in ONE_SHOTS:
                well = state["Status"] == "exited" and state["ExitCode"] == 0
            else:
                well = state.get("Health", state)["Status"] in ("healthy", "running")
            if not well:
                states[container["Name"]] = str(state.get("Health", state)["Status"])
        return states

    def wait_until_healthy(self) -> None:
        wait_for(self.unhealthy, lambda states: not states, deadline_s=HEALTHY_DEADLINE_S)

    def wait_until_consumed(self, workers: int, deadline_s: float = 120) -> None:
        """Wait until `workers` processes consume `default` and `pg_io`, and nobody is dumb."""

        def consumers() -> str:
            return self.run("docker", "compose", "run", "--rm", "-T", "client", "status").stdout

        wait_for(
            consumers,
            lambda table: table.count(" default, pg_io ") == workers and "nothing" not in table,
            deadline_s=deadline_s,
        )

    @property
    def address(self) -> str:
        """The one that its ports are published on."""
        return self.env.get("BIND_ADDRESS", "127.0.0.1")

    @cached_property
    def password(self) -> str:
        return self.compose("run", "--rm", "-T", "client", "password").strip()

    @cached_property
    def client(self) -> AirflowClient:
        url = f"http://{self.address}:{self.env['API_PORT']}"
        wait_for(
            lambda: status_of(f"{url}/api/v2/version"), lambda status: status == 200, deadline_s=120
        )
        client = AirflowClient(url, user="admin", password=self.password)
        client.wait_for_dag(self.dag, deadline_s=60)
        return client

    def start_load(self, count: int, seconds: float) -> str:
        """Start a run of `count` tasks of `seconds` each; give its id."""
        return self.client.trigger(LOAD, {"count": count, "seconds": seconds})

    def states(self, run_id: str) -> dict[str, list[str]]:
        """Give the run's mapped tasks by state: the workers they are on."""
        found: dict[str, list[str]] = {}
        for task in self.client.tasks(LOAD, run_id):
            if task.task_id == "work" and task.map_index >= 0:
                found.setdefault(task.state, []).append(task.worker)
        return found

    def wait_for_running(self, run_id: str, count: int, deadline_s: float = 90) -> None:
        """Wait until `count` tasks of the run are running at the same time."""
        wait_for(
            lambda: len(self.states(run_id).get("running", [])),
            lambda running: running >= count,
            deadline_s=deadline_s,
        )

    def wait_for_end(self, run_id: str, deadline_s: float = 240) -> str:
        """Wait until the run ended; give its state."""
        return wait_for(
            lambda: self.client.run_state(LOAD, run_id),
            lambda state: state in ("success", "failed"),
            deadline_s=deadline_s,
        )


def status_of(url: str) -> int:
    """Give the status with which a page answers, 0 where nobody does; redirects are followed."""
    try:
        return httpx.get(url, timeout=5, follow_redirects=True).status_code
    except httpx.TransportError:
        return 0


def service_of(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def docker_bridge(stack: ComposeStack) -> str:
    """Give an address of this machine that containers of another project reach."""
    show = "{{json (index .IPAM.Config 0)}}"
    done = stack.run("docker", "network", "inspect", "bridge", "--format", show)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    # An engine that made the bridge itself names no gateway until it starts again: it is the first address.
    return config.get("Gateway") or str(next(ip_network(config["Subnet"]).hosts()))


def copy_checkout(target: Path) -> Path:
    """Copy what a clone would hold, changes that are not committed yet included."""
    command = ["git", "-C", str(REPO), "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target / name)
    return target


def image_is_there(name: str) -> bool:
    inspect = ["docker", "image", "inspect", name]
    return subprocess.run(inspect, capture_output=True, check=False).returncode == 0


def pinned_image(variable: str) -> str:
    lines = (REPO / "compose/images/images.env").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{variable}=")).partition("=")[2]


def make_stack(folder: Path, project: str, **settings: str) -> ComposeStack:
    """Give a stack that is not started yet; Grafana only where its image can be had."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "ML_", "WORKER"))}
    env |= {"COMPOSE_PROJECT_NAME": project, "AIRFLOW_IMAGE": f"airflow-celery-stack:{PROJECT}"}
    env |= {"COMPOSE_FILE": "compose.yaml:tests/e2e/compose.yaml", "DAG_REFRESH_S": "5"}
    env |= {
        "ALERT_EMAIL_TO": ALERT_ADDRESS,
        "BUILDKIT_PROGRESS": "plain",
        "COMPOSE_ANSI": "never",
    } | settings
    scale: tuple[str, ...] = ()
    if not image_is_there(pinned_image("GRAFANA_IMAGE")) and image_is_there(
        "stack-offline/debian:trixie-slim"
    ):
        # No registry here: Compose pulls an image even for zero containers.
        env["GRAFANA_IMAGE"] = pinned_image("POSTGRES_IMAGE")
        scale = ("--scale", "grafana=0")
    return ComposeStack(folder, env, scale)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """Start the stack with four workers as the README says, and delete it at the end.

    To work on the tests: E2E_KEEP names a folder for the clone, and the stack stays.
    """
    kept = os.environ.get("E2E_KEEP")
    folder = copy_checkout(Path(kept) if kept else tmp_path_factory.mktemp("clone"))
    stack = make_stack(folder, PROJECT, API_PORT=API_PORT, FLOWER_PORT=FLOWER_PORT)
    down = ("docker", "compose", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    if kept:
        stack.compose("build")
    else:
        stack.run(*down)
        remove = ["docker", "image", "rm", stack.env["AIRFLOW_IMAGE"]]  # `up` builds it
        subprocess.run(remove, capture_output=True, check=False)
    try:
        started = stack.up(workers=4)
        assert started.returncode == 0, started.stdout + started.stderr
        stack.wait_until_healthy()
        yield stack
    finally:
        if not kept:
            stack.run(*down)


@pytest.fixture
def four_workers(stack: ComposeStack) -> ComposeStack:
    """Give the stack with four workers and default settings that all consume."""
    if len(stack.running("worker")) != 4 or stack.unhealthy():
        done = stack.up(workers=4)
        assert done.returncode == 0, done.stdout + done.stderr
    stack.wait_until_consumed(workers=4)
    return stack

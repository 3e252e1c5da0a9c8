"""The faults. Each is a function that hurts the stack and, where it does not heal by itself, heals it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compose.home import REPO
from tests.chaos.scene import WORKERS, Scene, cut, docker, kill_hard
from tests.waiting import wait_for

CONTROL = ("scheduler", "triggerer", "dag-processor", "api-server")


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    strike: Callable[[Scene], None]


FAULTS: dict[str, Fault] = {}
ALONE = {"engine"}
"""Tried when they are named: whatever else runs on this machine's engine suffers too."""


def fault(name: str, what: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Enter the function into the table."""

    def enter(strike: Callable[[Scene], None]) -> Callable[[Scene], None]:
        FAULTS[name] = Fault(name, what, strike)
        return strike

    return enter


def hold(seconds: float) -> None:
    """Keep the fault up for so long."""
    time.sleep(seconds)


@fault("worker-kill-all", "worker SIGKILL: whole pool")
def kill_all_workers(scene: Scene) -> None:
    scene.wait_for_open("nap")
    kill_hard(scene.workers())


@fault("worker-kill-one", "worker SIGKILL: one of four")
def kill_one_worker(scene: Scene) -> None:
    kill_hard([scene.container_of(scene.wait_for_open("nap"))])


@fault("worker-kill-write", "worker SIGKILL: in the middle of a write")
def kill_writing_worker(scene: Scene) -> None:
    kill_hard([scene.container_of(scene.wait_for_open("write"))])


@fault("worker-kill-train", "worker SIGKILL: in the middle of training")
def kill_training_worker(scene: Scene) -> None:
    kill_hard([scene.container_of(scene.wait_for_open("train"))])


@fault("worker-oom", "task process OOM-killed")
def eat_memory(scene: Scene) -> None:
    order = scene.ledger / "eat"
    order.touch()
    wait_for(order.exists, lambda there: not there, deadline_s=60)


@fault("worker-frozen", "worker frozen 120 s, then continued")
def freeze_worker(scene: Scene) -> None:
    frozen = scene.container_of(scene.wait_for_open("write"))["Id"]
    docker("pause", frozen)
    hold(120)
    docker("unpause", frozen)


@fault("redis-kill", "Redis SIGKILL, back after 20 s")
def kill_redis(scene: Scene) -> None:
    redis = scene.one("redis")["Id"]
    docker("kill", redis)
    hold(20)
    docker("start", redis)


@fault("redis-restarts", "Redis restarted × 5")
def restart_redis(scene: Scene) -> None:
    redis = scene.one("redis")["Id"]
    for _ in range(5):
        docker("restart", redis)
        hold(5)


@fault("redis-volume", "Redis: volume lost")
def lose_volume_of_redis(scene: Scene) -> None:
    stack = scene.stack
    stack.compose("rm", "--stop", "--force", "redis")
    docker("volume", "rm", f"{stack.env['COMPOSE_PROJECT_NAME']}_redis-data")
    stack.compose("up", "-d", "--no-deps", "redis")


@fault("redis-full", "Redis at `maxmemory` for 30 s")
def fill_redis(scene: Scene) -> None:
    before = scene.redis("CONFIG", "GET", "maxmemory").split()[-1]
    scene.redis("CONFIG", "SET", "maxmemory", "1")
    hold(30)
    scene.redis("CONFIG", "SET", "maxmemory", before)


@fault("postgres-restart", "Postgres restart")
def restart_postgres(scene: Scene) -> None:
    docker("restart", scene.one("postgres")["Id"])


@fault("postgres-down", "Postgres down 30 s")
def stop_postgres(scene: Scene) -> None:
    postgres = scene.one("postgres")["Id"]
    docker("kill", postgres)
    hold(30)
    docker("start", postgres)


HOLD_CONNECTIONS = """
export PGPASSWORD=$(cat /run/stack/postgres/superuser)
for i in $(seq 200); do psql -h 127.0.0.1 -U postgres -qtAc 'SELECT pg_sleep(30)' >/dev/null 2>&1 & done
wait
"""


@fault("postgres-connections", "Postgres: connections exhausted 30 s")
def exhaust_connections(scene: Scene) -> None:
    scene.stack.compose("exec", "-T", "postgres", "sh", "-c", HOLD_CONNECTIONS)


def kill_service(*services: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        kill_hard([scene.one(service) for service in services])

    return strike


for service in CONTROL:
    fault(f"{service}-kill", f"{service} SIGKILL")(kill_service(service))
fault("control-kill", "scheduler, triggerer, dag-processor, api-server SIGKILL at once")(
    kill_service(*CONTROL)
)


def cut_workers(service: str, seconds: float) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.wait_for_open("write", age_s=0)
        mend = cut(scene.workers(), [scene.one(service)])
        try:
            hold(seconds)
        finally:
            mend()

    return strike


for server, label in (("redis", "Redis"), ("api-server", "api-server"), ("postgres", "Postgres")):
    for length_s in (10, 60, 300):
        fault(f"cut-{server}-{length_s}", f"network cut workers ↔ {label} {length_s} s")(
            cut_workers(server, length_s)
        )


def fill_disk(place: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        file = f"/opt/airflow/{place}/filler"
        inside = ("exec", "-T", "worker", "sh", "-c")
        fill = f"dd if=/dev/zero of={file} bs=1M 2>/dev/null || dd if=/dev/zero of={file}2 bs=512 2>/dev/null || true"
        scene.stack.compose(*inside, fill)
        hold(30)
        scene.stack.compose(*inside, f"rm -f {file} {file}2")

    return strike


fault("disk-logs", "disk full 30 s: task logs")(fill_disk("logs"))
fault("disk-artifacts", "disk full 30 s: artifacts")(fill_disk("artifacts"))


@fault("compose-kill", "`docker compose kill`, then up")
def kill_everything(scene: Scene) -> None:
    scene.stack.compose("kill")
    scene.up(WORKERS)


@fault("scale", "scale 4→1→4 every 20 s for 3 min")
def scale_down_and_up(scene: Scene) -> None:
    end = time.monotonic() + 180
    workers = 4
    while time.monotonic() < end or workers != 4:
        workers = 5 - workers
        scene.up(workers)
        hold(20)


@fault("scale-down", "scale 4→1")
def scale_down(scene: Scene) -> None:
    scene.wait_for_open("nap")
    scene.up(1)


@fault("upgrade", "rolling upgrade with changed DAGs, and back")
def upgrade_and_go_back(scene: Scene) -> None:
    folder = scene.stack.folder
    mixed, canary = folder / "tests/chaos/dags/mixed.py", folder / "dags/queue_canary.py"
    before = {file: file.read_text() for file in (mixed, canary)}
    for text in (before[mixed].replace("CODE = 1", "CODE = 2"), before[mixed]):
        replace_file(mixed, text)
        replace_file(canary, before[canary] + ("" if text == before[mixed] else "# newer\n"))
        scene.stack.compose("build", "secrets")
        scene.up(WORKERS)


@fault("engine", "engine stopped and started")
def restart_engine(scene: Scene) -> None:
    for word in ("stop", "start"):
        subprocess.run([".ci/docker-engine", word], cwd=REPO, check=True)


def replace_file(file: Path, text: str) -> None:
    """Put a new file in the place of the old one: nobody reads half of it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


SCHEDULERS = """
SELECT count(*) FROM job WHERE job_type = 'SchedulerJob' AND state = 'running'
AND latest_heartbeat > now() - interval '15 s'
"""


@fault("two-schedulers", "two schedulers, one killed")
def kill_one_of_two_schedulers(scene: Scene) -> None:
    scene.up(WORKERS, "scheduler=2")
    wait_for(lambda: scene.stack.sql("airflow", SCHEDULERS), lambda n: n == "2", deadline_s=90)
    kill_hard([scene.one("scheduler")])

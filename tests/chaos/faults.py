"""The faults. Each is a function that hurts the stack and, where it does not heal by itself, heals it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.scene import Scene, cut, docker, kill_hard

CONTROL = ("scheduler", "triggerer", "dag-processor", "api-server")


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    strike: Callable[[Scene], None]


FAULTS: dict[str, Fault] = {}


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


@fault("compose-kill", "`docker compose kill`, then up")
def kill_everything(scene: Scene) -> None:
    scene.stack.compose("kill")
    done = scene.stack.up(workers=4)
    assert done.returncode == 0, done.stderr


@fault("scale", "scale 4→1→4 every 20 s for 3 min")
def scale_down_and_up(scene: Scene) -> None:
    end = time.monotonic() + 180
    workers = 4
    while time.monotonic() < end or workers != 4:
        workers = 5 - workers
        done = scene.stack.up(workers=workers)
        assert done.returncode == 0, done.stderr
        hold(20)


@fault("scale-down", "scale 4→1")
def scale_down(scene: Scene) -> None:
    scene.wait_for_open("nap")
    done = scene.stack.up(workers=1)
    assert done.returncode == 0, done.stderr


@fault("two-schedulers", "two schedulers, one killed")
def kill_one_of_two_schedulers(scene: Scene) -> None:
    kill_hard([scene.one("scheduler")])

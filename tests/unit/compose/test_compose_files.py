"""The Compose files say what the run without Docker does, and confine every service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from compose.commands import connections_from, secret_commands
from compose.entrypoint import SERVICES, secrets_folder
from compose.home import REPO
from compose.secret_volumes import OWNERS
from ml.settings import MLSettings

STACK_FILES = ("compose/airflow.yaml", "compose/servers.yaml", "compose/monitoring.yaml")
LARGEST_SCALE = 4  # of `worker`, for which the defaults are made
LONGEST_TASK_S = 3600  # the training task's execution_timeout
WORKERS = tuple(load_declarations({}).workers)
NO_DOCKER = {"DAGS_FOLDER", "POSTGRES_PORT", "REDIS_PORT", "SUPERVISOR_PORT"}


def read(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPO / file).read_text())
    return content


def services() -> dict[str, dict[str, Any]]:
    return {name: one for file in STACK_FILES for name, one in read(file)["services"].items()}


def secret_variables(service: dict[str, Any]) -> dict[str, str]:
    given = service.get("environment", {})
    return {k: v for k, v in given.items() if k.endswith("_CMD") or "SECRETS__BACKEND" in k}


@pytest.mark.parametrize(
    ("group", "names"),
    [
        (
            "control",
            ["init", "api-server", "scheduler", "maintenance"],
        ),
        ("mailing", ["dag-processor", "triggerer"]),
        ("flower", ["flower"]),
        ("sla", ["sla"]),
        ("worker", ["worker", "worker-cpu-train"]),
    ],
)
def test_services_read_the_secrets_of_their_group(group: str, names: list[str]):
    """The variables are those of `compose.commands`, the one table of them."""
    expected = secret_commands(secrets_folder(), "control" if group == "mailing" else group)
    if connections := {"worker": "worker", "mailing": "smtp", "sla": "smtp"}.get(group):
        expected |= connections_from(secrets_folder() / connections / "connections.json")
    for name in names:
        assert secret_variables(services()[name]) == expected, name


def test_remote_workers_are_set_up_as_the_stacks_own():
    """Same variables, same confinement; only addresses, metrics and mounts differ."""
    remote = read("compose/remote-worker.yaml")["services"]
    for name in ("worker", "worker-cpu-train"):
        own = services()[name]
        assert secret_variables(remote[name]) == secret_variables(own)
        mine, theirs = own["environment"], remote[name]["environment"]
        differ = {k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)}
        assert {k for k in differ if "METRICS" not in k} == {
            "AIRFLOW__API__BASE_URL",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
            "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY",
        }
        for key in (
            "cap_drop",
            "security_opt",
            "read_only",
            "user",
            "stop_grace_period",
            "logging",
        ):
            assert remote[name][key] == own[key], key


@pytest.mark.parametrize("name", sorted(services()))
def test_service_is_confined(name: str):
    """Read-only, without capabilities and privileges, not root, within limits; its log rotates."""
    service = services()[name]
    hands_over = name in ("secrets", "keeper")
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["logging"]["options"]["max-size"]
    assert service["user"].startswith("0:") is hands_over
    assert ("cap_add" in service) is hands_over
    assert all("BIND_ADDRESS:-127.0.0.1" in port for port in service.get("ports", []))


def test_every_volume_of_secrets_has_readers_and_an_owner():
    """One volume for each group, mounted by nobody else than those who read it."""
    readers: dict[str, set[str]] = {}
    for name, service in services().items():
        for volume in service.get("volumes", []):
            if volume.startswith("secrets-") and name not in ("secrets", "keeper"):
                assert volume.endswith(":ro"), (name, volume)
                readers.setdefault(volume.split(":")[0].removeprefix("secrets-"), set()).add(name)
    assert readers.keys() == OWNERS.keys()
    assert readers["worker"] == {"worker", "worker-cpu-train"}
    assert readers["postgres"] == {"postgres", "init"}
    assert readers["redis"] == {"redis"}
    assert readers["alertmanager"] == {"alertmanager"}
    assert readers["postgres-exporter"] == {"postgres-exporter"}
    assert readers["sla"] == {"sla"}
    assert readers["smtp"] == {"dag-processor", "triggerer", "sla"}


def test_settings_reach_the_processes_that_read_them():
    """Each variable is in settings.env, or is set for the workers, `sla` or `secrets` alone."""
    lines = (REPO / "compose/settings.env").read_text().splitlines()
    passed = {line for line in lines if line and not line.startswith("#")}
    known = {*Settings.model_fields, *MLSettings.model_fields, *load_declarations({}).variables()}
    own = (*WORKERS, "sla")
    worker = {k: v for name in own for k, v in services()[name]["environment"].items()}
    own_of_mail = ("SMTP_", "ALERT_")
    secrets = {n for n in services()["secrets"]["environment"] if n.startswith(own_of_mail)}
    published = {"API_PORT", "FLOWER_PORT"}
    assert passed | (known & worker.keys()) | secrets == known - NO_DOCKER - published
    assert not passed & (worker.keys() | secrets)


def test_the_one_that_checks_settings_sees_those_of_the_workers_and_of_sla():
    """Else a wrong one would be found by a container that starts again and again."""
    checked = services()["settings"]["environment"]
    for name in (*WORKERS, "sla"):
        own = services()[name]["environment"]
        known = {*Settings.model_fields, *load_declarations({}).variables(), "CPU_TRAIN_THREADS"}
        assert {k: v for k, v in own.items() if k in known}.items() <= checked.items()


def test_every_command_is_one_of_the_entrypoint():
    """A service of Compose starts what the run without Docker starts."""
    known = {*SERVICES, *load_declarations({}).workers}
    for name, service in read("compose/airflow.yaml")["services"].items():
        command = service.get("command", [])
        if command[:3] == ["python", "-m", "compose.entrypoint"]:
            assert command[3] == name
            assert name in known


def test_third_party_images_are_those_of_images_env():
    """The names stand in one place; Compose's defaults repeat them."""
    lines = (REPO / "compose/images/images.env").read_text().splitlines()
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = {s["image"] for s in services().values() if "AIRFLOW_IMAGE" not in s["image"]}
    used.add(services()["secrets"]["build"]["args"]["PYTHON_IMAGE"])
    assert used == {f"${{{name}:-{image}}}" for name, image in named.items()}


def test_time_limits_and_slots_fit_each_other_at_the_largest_scale():
    """No message is redelivered while its task runs, and no worker waits for `parallelism`."""
    settings, declared = Settings.from_env({}), load_declarations({})
    worker = declared.workers["worker"]
    # What trains waits in its pool, so that it takes no more of PARALLELISM than its slots.
    slots = LARGEST_SCALE * worker.concurrency + declared.pools["cpu_train"].slots
    assert slots <= settings.PARALLELISM <= declared.pools["default_pool"].slots
    assert settings.HEARTBEAT_TIMEOUT_S < LONGEST_TASK_S
    assert LONGEST_TASK_S + settings.WORKER_STOP_TIMEOUT_S < settings.VISIBILITY_TIMEOUT_S
    assert settings.VISIBILITY_TIMEOUT_S <= settings.TASK_QUEUED_TIMEOUT_S
    assert declared.pools["pg_io"].slots <= LARGEST_SCALE * worker.concurrency


def test_code_of_the_image_is_mounted_read_only_to_develop():
    """The overlay names every service that runs DAG code."""
    for service in read("compose/develop.yaml")["services"].values():
        assert all(volume.endswith(":ro") for volume in service["volumes"])


def test_exposed_services_are_on_the_network_that_leads_out():
    """Docker publishes no port of a container that has internal networks alone."""
    for name, service in read("compose/expose.yaml")["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "front" in {*services()[name]["networks"], *service.get("networks", [])}, name


def test_health_check_is_executable():
    """The image copies it with its mode."""
    assert Path(REPO / "compose/healthy").stat().st_mode & 0o111


def test_triggerer_sees_the_landing_folder_where_workers_do():
    """What a sensor waits for there has the same path; looking is all the triggerer may do."""
    (mount,) = [one for one in services()["worker"]["volumes"] if "landing" in one]
    assert f"{mount}:ro" in services()["triggerer"]["volumes"]

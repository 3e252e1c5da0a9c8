"""Links lead to where people reach Airflow; the parts of the stack reach each other as ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from celery_stack.queues import load_declarations
from celery_stack.settings import SettingError, Settings
from compose.home import REPO, StackHome
from compose.programs import Plan, airflow_environment

OWN = "https://airflow.example.org/team"


def local_environment(tmp_path: Path, env: dict[str, str]) -> dict[str, str]:
    ports = {"api": 8080, "flower": 5555, "postgres": 1, "redis": 2, "supervisor": 3}
    declarations, settings = load_declarations(env), Settings.from_env(env)
    plan = Plan(StackHome(tmp_path), env, settings, declarations, ports, {})
    return airflow_environment(plan, "control")


@pytest.mark.parametrize(("env", "url"), [({}, "http://127.0.0.1:8080"), ({"BASE_URL": OWN}, OWN)])
def test_without_docker(tmp_path: Path, env: dict[str, str], url: str):
    """Unset, it is the port on this machine."""
    given = local_environment(tmp_path, env)
    assert given["AIRFLOW__API__BASE_URL"] == url
    assert given["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"


@pytest.mark.parametrize(
    ("file", "default"),
    [("airflow", "http://localhost:${API_PORT:-8080}"), ("remote-worker", "${API_URL}")],
)
def test_with_docker(file: str, default: str):
    """The same variable, for every process; workers elsewhere still ask the api-server at its own address."""
    content = yaml.safe_load((REPO / f"compose/{file}.yaml").read_text())
    environment = content["x-environment"]
    assert environment["AIRFLOW__API__BASE_URL"] == f"${{BASE_URL:-{default}}}"
    assert "BASE_URL" not in environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]


@pytest.mark.parametrize("url", [OWN, "http://10.0.0.5:8080", "http://[::1]:8080/"])
def test_address_is_taken(url: str):
    """With a port, below a path."""
    address = Settings.from_env({"BASE_URL": url}).BASE_URL
    assert address == url


@pytest.mark.parametrize(
    "url", ["airflow.example.org", "ftp://a", "https://", "https://a b", "https://a/?x"]
)
def test_what_is_no_address_stops_the_start(url: str):
    """Before a mail goes out with links that lead nowhere."""
    with pytest.raises(SettingError, match="BASE_URL must be an address such as https://airf"):
        Settings.from_env({"BASE_URL": url})

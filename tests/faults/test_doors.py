"""Strangers at every door of a stack: nothing answers them but health, the login page and where to log in."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
import redis
from fastapi.routing import APIRoute

from compose.secret_files import make_secrets, read_secret
from tests.faults.conftest import PARALLELISM
from tests.faults.test_lost_messages import start
from tests.integration.conftest import RunningStack
from tests.leaks import leaked
from tests.stack_processes import all_secrets, look_at, open_doors, what_it_shows

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
DOORS = ("api", "flower", "postgres", "redis", "supervisor")
# Health, the version, and what a login needs, in the API of people and in that of tasks.
OPEN = {
    "GET /api/v2/monitor/health",
    "GET /api/v2/version",
    "GET /api/v2/auth/login",
    "GET /api/v2/auth/logout",
    "GET /execution/health",
    "GET /execution/health/ping",
}
REFUSED = {401, 403}
TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.")


@pytest.fixture
def ports(stack: RunningStack) -> dict[str, int]:
    recorded: dict[str, int] = json.loads(stack.home.ports_file.read_text())
    return {name: recorded[name] for name in DOORS}


@pytest.fixture
def stranger(stack: RunningStack) -> Iterator[httpx.Client]:
    """Give somebody who talks to the api-server without having logged in."""
    with httpx.Client(base_url=stack.client.url, timeout=30) as client:
        yield client


def test_there_are_no_other_doors(stack: RunningStack, ports: dict[str, int]):
    """Each port that a process of the stack listens on is one of those below."""
    found = {port for doors in look_at(stack, "", open_doors) for *_, port in doors}
    assert found | {ports["supervisor"]} == set(ports.values())


def test_api_of_people_answers_nothing_to_strangers(stranger: httpx.Client):
    """Whatever it can be asked."""
    described = stranger.get("/openapi.json").json()["paths"]
    assert answered(stranger, list(described.items())) <= OPEN


def test_api_of_tasks_answers_nothing_to_strangers(stranger: httpx.Client):
    """It describes itself to nobody, so its routes are Airflow's own list."""
    from airflow.api_fastapi.execution_api.routes import execution_api_router

    routes = [route for route in execution_api_router.routes if isinstance(route, APIRoute)]
    asked = [(f"/execution{route.path}", route.methods) for route in routes]
    assert answered(stranger, asked) <= OPEN


def answered(client: httpx.Client, asked: list[tuple[str, Iterable[str]]]) -> set[str]:
    """Give what is answered with no error, out of at least twenty questions."""
    questions = [
        (method.upper(), path)
        for path, methods in asked
        for method in methods
        if method.upper() in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ]
    assert len(questions) > 20
    return {
        f"{method} {path}"
        for method, path in questions
        if client.request(method, re.sub(r"{[^}]*}", "1", path), json={}).status_code < 400
    }


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthcheck", "/api/workers", "/tasks"])
@pytest.mark.parametrize("door", ["flower", "supervisor"])
def test_flower_and_supervisor_ask_for_a_login(ports: dict[str, int], door: str, path: str):
    """On every page, those for machines too."""
    answer = httpx.get(f"http://127.0.0.1:{ports[door]}{path}", auth=("admin", "admin"))
    assert answer.status_code == 401


@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_redis_refuses(ports: dict[str, int], password: str | None):
    """Without the password, and with another."""
    with (
        redis.Redis("127.0.0.1", ports["redis"], password=password) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.parametrize("role", ["postgres", "airflow", "warehouse", "sla"])
@pytest.mark.parametrize("password", ["", "wrong"])
def test_postgres_refuses(ports: dict[str, int], role: str, password: str):
    """Whoever one says to be."""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(
            host="127.0.0.1",
            port=ports["postgres"],
            user=role,
            password=password,
            dbname="airflow",
            passfile="/dev/null",
        )


@pytest.fixture
def other_secrets(tmp_path: Path) -> Path:
    """Give the secrets of another stack."""
    make_secrets(tmp_path / "secrets")
    return tmp_path / "secrets"


def test_token_of_another_stack_opens_nothing(
    stack: RunningStack, stranger: httpx.Client, other_secrets: Path
):
    """A person's login there is none here; the same claims signed by this stack are one."""
    token = stack.client._http.headers["Authorization"].removeprefix("Bearer ")
    answers = [
        stranger.get("/api/v2/dags", headers=signed_again(token, secrets)).status_code
        for secrets in (other_secrets, stack.home.secrets)
    ]
    assert answers[0] in REFUSED
    assert answers[1] == 200


def test_tasks_token_of_another_stack_starts_nothing(
    stack: RunningStack, stranger: httpx.Client, other_secrets: Path, tmp_path: Path
):
    """Nor does the token of one task open another task's door."""
    run_id = start(stack, tmp_path / "run")
    with redis.Redis.from_url(stack.broker_url) as client:
        [first, second] = [workload_in(raw) for raw in client.lrange("default", 0, 1)]
    try:
        own = first["ti"]["id"]
        other_stacks = signed_again(first["token"], other_secrets)
        assert ask_to_run(stranger, own, other_stacks) in REFUSED
        ours = signed_again(first["token"], stack.home.secrets)
        assert ask_to_run(stranger, second["ti"]["id"], ours) in REFUSED
        assert ask_to_run(stranger, own, ours) not in REFUSED
    finally:
        (tmp_path / "run/gate").touch()
    assert stack.wait_for_end("counted", run_id, deadline_s=180) == "success"
    assert PARALLELISM > 1


def test_no_secret_and_no_token_is_seen_anywhere(stack: RunningStack):
    """In no file but those of the secrets and the servers' own, in no command's output, in no process."""
    secrets = all_secrets(stack)
    hidden = (stack.home.secrets, stack.home.postgres, stack.home.redis)
    seen = {
        str(file): file.read_text(errors="replace")
        for file in stack.home.root.rglob("*")
        if file.is_file() and not any(file.is_relative_to(folder) for folder in hidden)
    }
    for words in (["status"], ["why", "counted", "work"]):
        done = stack.command(*words)
        seen[" ".join(words)] = done.stdout + done.stderr
    for number, (name, shown) in enumerate(look_at(stack, "", what_it_shows)):
        seen[f"{name} {number}"] = shown
    assert [where for where, text in seen.items() if leaked(secrets, text)] == []
    assert [where for where, text in seen.items() if TOKEN.search(text)] == []


def signed_again(token: str, secrets: Path) -> dict[str, str]:
    """Give the header of a request with the claims of `token`, signed as the stack with `secrets` does."""
    head = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    key = read_secret(secrets / "control/jwt_secret")
    signed = jwt.encode(claims, key, algorithm=head["alg"], headers=head)
    return {"Authorization": f"Bearer {signed}"}


def workload_in(raw: bytes) -> dict[str, Any]:
    """Give what a message of Celery tells a worker to run."""
    [[workload], *_] = json.loads(base64.b64decode(json.loads(raw)["body"]))
    content: dict[str, Any] = json.loads(workload)
    return content


def ask_to_run(client: httpx.Client, task_instance: str, headers: dict[str, str]) -> int:
    """Ask the api-server to start a task instance, with nothing that it needs to do so; give the status."""
    path = f"/execution/task-instances/{task_instance}/run"
    return client.patch(path, headers=headers, json={}).status_code

"""`docker compose up --scale worker=4` on a real engine, from a clean clone."""

from __future__ import annotations

import httpx
import pytest
import yaml

from tests.e2e.conftest import FLOWER_PORT, LOAD, ComposeStack, service_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_training_on_the_fresh_stack_prints_metrics_over_the_bar(stack: ComposeStack):
    """`make train`, without Python on the machine: exit code 0, a model; cpu_train's own worker trains."""
    done = stack.run("compose/on-stack", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy" in done.stdout
    assert "Model 2" in done.stdout
    [trainer] = stack.running("worker-cpu-train")
    rows = [line for line in done.stdout.splitlines() if " cpu_train " in line]
    assert rows
    assert all(trainer["Config"]["Hostname"] in row for row in rows)


def test_models_and_reasons_are_told_from_inside_the_stack(stack: ComposeStack):
    """`make models` marks the champion, `make why` says what became of a task."""
    models = stack.run("compose/on-stack", "models", "list")
    assert models.returncode == 0, models.stderr
    assert "* 2" in models.stdout
    why = stack.run("compose/on-stack", "why", "wdbc_training", "register")
    assert why.returncode == 0, why.stderr
    assert "It is done: success" in why.stdout


def test_each_of_four_workers_runs_tasks(four_workers: ComposeStack):
    """Forty short tasks reach every worker, each at its first try."""
    run_id = four_workers.start_load(count=40, seconds=1)
    assert four_workers.wait_for_end(run_id) == "success"
    workers = {c["Config"]["Hostname"] for c in four_workers.running("worker")}
    assert set(four_workers.states(run_id)["success"]) == workers
    assert len(workers) == 4


def test_password_opens_flower_and_nothing_opens_it_without(four_workers: ComposeStack):
    """Flower shows five workers to the first user, and no page of it to anybody else."""
    url = f"http://127.0.0.1:{FLOWER_PORT}"
    for page in ("/", "/metrics", "/healthcheck", "/api/workers"):
        assert httpx.get(url + page).status_code == 401, page
    login = ("admin", four_workers.password)
    answer = httpx.get(f"{url}/api/workers", params={"refresh": "1"}, auth=login, timeout=30)
    names = [name.partition("@")[0] for name in answer.json()]
    assert sorted(names) == ["worker"] * 4 + ["worker-cpu-train"]


def test_scale_down_in_mid_load_fails_nothing_and_loses_no_log(four_workers: ComposeStack):
    """4→1: every task succeeds at its first try, and the logs of gone workers are there."""
    run_id = four_workers.start_load(count=32, seconds=4)
    four_workers.wait_for_running(run_id, 8)
    done = four_workers.up(workers=1)
    assert done.returncode == 0, done.stderr
    assert len(four_workers.running("worker")) == 1
    assert four_workers.wait_for_end(run_id) == "success"
    tasks = [t for t in four_workers.client.tasks(LOAD, run_id) if t.task_id == "work"]
    assert {t.try_number for t in tasks} == {1}
    assert len({t.worker for t in tasks}) > 1
    for task in tasks:
        log = four_workers.client.log_tail(LOAD, run_id, task)
        assert f"task number {task.map_index} is done" in log


def test_concurrency_is_set_by_the_environment(stack: ComposeStack):
    """WORKER_CONCURRENCY=8: one worker runs eight tasks at once; nothing but workers starts again."""
    before = {service_of(c): c["Id"] for c in stack.containers()}
    done = stack.up(workers=1, WORKER_CONCURRENCY="8")
    assert done.returncode == 0, done.stderr
    stack.wait_until_consumed(workers=1)
    changed = {service_of(c) for c in stack.containers() if before.get(service_of(c)) != c["Id"]}
    assert changed == {"settings", "worker", "worker-cpu-train"}
    run_id = stack.start_load(count=8, seconds=12)
    stack.wait_for_running(run_id, 8)
    assert stack.wait_for_end(run_id) == "success"


def test_wrong_worker_setting_stops_the_workers_alone_with_one_line(stack: ComposeStack):
    """WORKER_CONCURRENCY=abc: `up` fails, one line says why, all else stays up."""
    done = stack.up(workers=1, WORKER_CONCURRENCY="abc")
    assert done.returncode != 0
    assert stack.compose("logs", "--no-log-prefix", "settings").strip().splitlines() == [
        "error: WORKER_CONCURRENCY must be a whole number from 1 to 256, got 'abc'. Set it in .env."
    ]
    assert stack.running("worker") == []
    assert len(stack.running("scheduler")) == 1


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        ("worker", "WORKER_QUEUES", "default,gpu"),
        ("scheduler", "PARALLELISM", "0"),
        ("init", "PG_IO_SLOTS", "many"),
        ("api-server", "LOG_LEVEL", "LOUD"),
    ],
)
def test_service_with_a_wrong_setting_ends_with_one_line(
    stack: ComposeStack, service: str, name: str, value: str
):
    """The line names variable, expectation and value."""
    command = ("docker", "compose", "run", "--rm", "--no-deps", "-T", service)
    done = stack.run(*command, **{name: value})
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {name} must be ")
    assert value in lines[0]


def test_task_past_the_stop_bound_goes_to_retry_and_its_log_names_the_setting(
    stack: ComposeStack,
):
    """A worker stopped with WORKER_STOP_TIMEOUT_S=3 ends its task, which succeeds elsewhere later."""
    assert stack.up(workers=1, WORKER_STOP_TIMEOUT_S="3").returncode == 0
    stack.wait_until_consumed(workers=1)
    run_id = stack.start_load(count=1, seconds=25)
    stack.wait_for_running(run_id, 1)
    stack.compose("stop", "worker", WORKER_STOP_TIMEOUT_S="3")
    wait_for(
        lambda: stack.states(run_id),
        lambda states: "running" not in states and "failed" not in states,
        deadline_s=15,
    )
    assert "WORKER_STOP_TIMEOUT_S=3 " in stack.compose("logs", "--no-log-prefix", "worker")
    assert stack.up(workers=1).returncode == 0
    assert stack.wait_for_end(run_id) == "success"
    task = next(t for t in stack.client.tasks(LOAD, run_id) if t.task_id == "work")
    assert task.try_number == 2
    first = type(task)(**{**vars(task), "try_number": 1})
    assert "WORKER_STOP_TIMEOUT_S=3 " in stack.client.log_tail(LOAD, run_id, first, 50)


def test_workers_consume_again_after_redis_restarted(four_workers: ComposeStack):
    """Queued work survives, and every worker takes its part again."""
    four_workers.compose("restart", "redis")
    four_workers.wait_until_consumed(workers=4)
    run_id = four_workers.start_load(count=16, seconds=1)
    assert four_workers.wait_for_end(run_id) == "success"


def test_worker_that_consumes_too_little_replaces_itself(stack: ComposeStack):
    """Told to leave a queue it still answers; its guard ends it, and Docker starts it again."""
    assert stack.up(workers=1, WORKER_CHECK_S="2").returncode == 0
    stack.wait_until_healthy()
    worker = stack.running("worker")[0]
    url = f"http://127.0.0.1:{FLOWER_PORT}/api/worker/queue/cancel-consumer"
    login = ("admin", stack.password)
    node = f"worker@{worker['Config']['Hostname']}"

    def cancel() -> httpx.Response:
        # Flower answers 404 until it has heard of the worker.
        httpx.get(f"http://127.0.0.1:{FLOWER_PORT}/api/workers?refresh=1", auth=login, timeout=30)
        return httpx.post(f"{url}/{node}", params={"queue": "default"}, auth=login, timeout=30)

    wait_for(cancel, lambda answer: answer.status_code == 200, deadline_s=60)
    wait_for(
        lambda: stack.running("worker"),
        lambda found: bool(found) and found[0]["RestartCount"] > worker["RestartCount"],
        deadline_s=60,
    )
    stack.wait_until_consumed(workers=1)
    assert "to consume default, pg_io, found pg_io" in stack.compose("logs", "worker")


def test_prometheus_reaches_everything_it_scrapes(stack: ComposeStack):
    """Every target is up, and Redis and Airflow deliver."""

    def ask(query: str) -> str:
        url = f"http://127.0.0.1:9090/api/v1/query?query={query}"
        return stack.compose("exec", "-T", "prometheus", "wget", "-q", "-O", "-", url)

    configuration = (stack.folder / "monitoring/prometheus/prometheus.yml").read_text()
    jobs = len(yaml.safe_load(configuration)["scrape_configs"])
    wait_for(lambda: ask("sum(up)"), lambda answer: f'"{jobs}"' in answer, deadline_s=90)
    wait_for(lambda: ask("redis_up"), lambda answer: '"1"' in answer, deadline_s=60)
    assert '"value"' in ask("airflow_scheduler_heartbeats_total")

"""However many tasks run, the number of series stays that of DAGs, tasks, queues and workers."""

from __future__ import annotations

import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from compose.home import REPO
from monitoring.metrics_table import mapped
from tests.e2e.conftest import pinned_image
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DAGS, TASKS, TRIES = 50, 4, 5  # of each task of each DAG: 1,000 in all
# What the stack sends about a run with one task, as seen on the wire.
OF_A_TRY = [
    "airflow.task_instance_created,dag_id={dag},run_type=manual,task_type=_PythonDecoratedOperator:1|c",
    "airflow.task.scheduled_duration,dag_id={dag},task_id={task},queue=default:12.5|ms",
    "airflow.ti.scheduled,queue=default,dag_id={dag},task_id={task}:1|g",
    "airflow.ti.queued,queue=default,dag_id={dag},task_id={task}:1|g",
    "airflow.ti.running,queue=default,dag_id={dag},task_id={task}:1|g",
    "airflow.ti.deferred,queue=default,dag_id={dag},task_id={task}:0|g",
    "airflow.queue.wait,queue=default:8.25|ms",
    "airflow.task.start_overhead,queue=default:41.0|ms",
    "airflow.ti.start,dag_id={dag},task_id={task}:1|c",
    "airflow.ti.finish,dag_id={dag},task_id={task},state=success:1|c",
    "airflow.ti_successes,dag_id={dag},task_id={task}:1|c",
    "airflow.operator_successes,dag_id={dag},task_id={task},operator_name=_PythonDecoratedOperator:1|c",
    "airflow.task.duration,dag_id={dag},task_id={task}:180.5|ms",
    "airflow.task_instances_without_heartbeats_killed,dag_id={dag},task_id={task}:1|c",
    "airflow.sla.met,dag_id={dag},task_id={task}:1|c",
    "airflow.sla.missed,dag_id={dag},task_id={task}:1|c",
    "airflow.sla.lateness,dag_id={dag},task_id={task}:900|ms",
]
OF_A_RUN = [
    "airflow.dagrun.dependency-check,dag_id={dag},run_type=manual:3.5|ms",
    "airflow.dagrun.schedule_delay,dag_id={dag}:25.0|ms",
    "airflow.dagrun.first_task_scheduling_delay,dag_id={dag},run_type=scheduled:20.1|ms",
    "airflow.dagrun.{dag}.first_task_scheduling_delay,dag_id={dag},run_type=scheduled:20.1|ms",
    "airflow.dagrun.duration.success,dag_id={dag},run_type=manual:950.5|ms",
    "airflow.dag.{dag}.{task}.{run}.duration:1.5|ms",
    "airflow.dag_processing.last_run.seconds_ago,file_path={dag}.py,bundle_name=dags-folder,file_name={dag}:5|g",
    "airflow.dag_processing.processes,file_path={dag}.py,action=start:1|c",
    "airflow.sla.undelivered,dag_id={dag}:0|g",
]
# Series per DAG, per task, and in all, that a metric of these may have.
BUCKETS = 11
MOST = DAGS * TASKS


def sent(runs: range) -> Iterator[str]:
    """Give what 50 DAGs of four tasks send in these runs."""
    for run in runs:
        for dag in range(DAGS):
            for task in range(TASKS):
                names = {"dag": f"dag_{dag}", "task": f"task_{task}", "run": f"manual__{run}"}
                for line in OF_A_TRY + (OF_A_RUN if task == 0 else []):
                    yield line.format(**names)


class Exporter:
    """The real exporter, with the stack's mapping."""

    def __init__(self, name: str) -> None:
        ports = [self._port(name, inner) for inner in ("9102/tcp", "9125/tcp")]
        self._url = f"http://127.0.0.1:{ports[0]}"
        self._address = ("127.0.0.1", ports[1])

    @staticmethod
    def _port(name: str, inner: str) -> int:
        done = subprocess.run(
            ["docker", "port", name, inner], capture_output=True, text=True, check=True
        )
        return int(done.stdout.split(":")[-1])

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/-/ready").is_success
        except httpx.TransportError:
            return False

    def take(self, lines: list[str]) -> None:
        """Send lines, over TCP, which loses none, and wait until they are counted."""
        before = self._events()
        with socket.create_connection(self._address) as connection:
            connection.sendall("".join(f"{line}\n" for line in lines).encode())
        wait_for(self._events, lambda events: events >= before + len(lines), deadline_s=60)

    def _events(self) -> float:
        actions = r'^statsd_exporter_events_actions_total\{action="\w+"\} (\S+)$'
        return sum(map(float, re.findall(actions, self._page(), re.MULTILINE)))

    def _page(self) -> str:
        return httpx.get(f"{self._url}/metrics", timeout=30).text

    def series(self) -> Counter[str]:
        """Give how many series each of Airflow's metrics has; of a histogram, its buckets and so on."""
        return Counter(re.findall(r"^(airflow_\w+)(?:\{.*\})? ", self._page(), re.MULTILINE))


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    image = pinned_image("STATSD_EXPORTER_IMAGE")
    name = "stack-e2e-cardinality"
    command = ["docker", "run", "--rm", "--detach", "--name", name]
    command += ["--publish", "127.0.0.1::9102", "--publish", "127.0.0.1::9125"]
    command += ["--volume", f"{REPO}/monitoring/statsd/mapping.yml:/mapping.yml:ro"]
    started = [*command, image, "--statsd.mapping-config=/mapping.yml"]
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
    subprocess.run(started, capture_output=True, check=True)
    try:
        exporter = Exporter(name)
        wait_for(exporter.is_ready, bool, deadline_s=30)
        yield exporter
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def test_a_thousand_tasks_make_no_more_series_than_there_are_tasks_of_dags(exporter: Exporter):
    """And a thousand more, of other runs, make none at all."""
    exporter.take(list(sent(range(TRIES))))
    first = exporter.series()
    known = {one["name"] for one in mapped()}
    for name, count in first.items():
        metric = re.sub(r"_(bucket|sum|count)$", "", name)
        assert metric in known, f"{name} is no metric of the mapping"
        histogram = next(o for o in mapped() if o["name"] == metric)["match_metric_type"]
        most = DAGS * (BUCKETS + 2) if histogram == "observer" else MOST
        assert count <= most, f"{name}: expected at most {most} series, found {count}"
    assert first["airflow_tasks_finished_total"] == MOST
    exporter.take(list(sent(range(TRIES, 2 * TRIES))))
    assert exporter.series() == first

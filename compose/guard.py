"""Run a worker in a container: see that it consumes, and stop it within its bound.

`python -m compose.guard --node worker --queues default,pg_io --stop-timeout-s 60 --check-s 30 -- COMMAND`

A worker that answers but consumes nothing ends itself, and Docker starts it again. On SIGTERM the
worker takes no new task and finishes what runs; what still runs at the bound is ended in such a way
that its supervisor reports it, and goes to retry at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from celery_stack import metrics
from celery_stack.live_workers import connect
from celery_stack.options import read_option

NO_BROKER = (OperationalError, RedisError, OSError)
HEALTHY = Path("/tmp/consuming")  # noqa: S108 - a tmpfs of the container's own
CHECKS_IN_VAIN = 4
FIRST_CHECKS_S = 2  # until it consumes for the first time
START_PATIENCE_S = 120
SIGN_OF_LIFE_S = 10
ANSWER_TIMEOUT_S = 5
KILL_AFTER_S = 5  # between asking a task to end and ending it
IDLE_PATIENCE_S = 15  # for a stopping worker without tasks
REPORT_WITHIN_S = 15  # for the supervisors of ended tasks, then for everything


class Guard:
    """One worker process and what is known of it."""

    def __init__(
        self, command: list[str], node: str, queues: set[str], stop_s: float, check_s: float
    ) -> None:
        self.queues, self.stop_s, self.check_s = queues, stop_s, check_s
        self.worker_pool, self.node = node, f"{node}@{socket.gethostname()}"
        self.app = connect(read_option("AIRFLOW__CELERY__BROKER_URL", os.environ))
        self.asked_to_stop = threading.Event()
        self.worker = subprocess.Popen(command)  # noqa: S603 - the stack's own command line
        self.in_vain, self.consumed_once = 0, False
        self.next_check = time.monotonic() + FIRST_CHECKS_S
        self.next_sign = 0.0

    def run(self) -> int:
        """Watch the worker until it ends; give the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.asked_to_stop.set())
        while self.worker.poll() is None:
            self._show_life()
            if self.asked_to_stop.wait(0.5):
                return self._stop()
            if time.monotonic() >= self.next_check and not self._check():
                self._stop()
                return 1
        return self.worker.returncode

    def _show_life(self) -> None:
        """Tell Prometheus that the process is there; what it consumes it tells itself (worker_metrics)."""
        if time.monotonic() >= self.next_sign:
            self.next_sign = time.monotonic() + SIGN_OF_LIFE_S
            metrics.gauge("worker.alive", 1, worker=self.node, worker_pool=self.worker_pool)

    def _check(self) -> bool:
        """Look whether the worker consumes; False once it did not for too long."""
        found = consumed_queues(self.app, self.node)
        now = time.monotonic()
        well = found is not None and found >= self.queues
        if well:
            HEALTHY.touch()
            self.in_vain, self.consumed_once = 0, True
        elif found is not None:  # without a broker there is nothing to consume: not its fault
            self.in_vain += 1
        self.next_check = now + (self.check_s if self.consumed_once else FIRST_CHECKS_S)
        patience = CHECKS_IN_VAIN if self.consumed_once else START_PATIENCE_S / FIRST_CHECKS_S
        if self.in_vain < patience:
            return True
        _say(
            f"Expected {self.node} to consume {', '.join(sorted(self.queues))}, found "
            f"{', '.join(sorted(found or ())) or 'nothing'} in {self.in_vain} checks: starting it again."
        )
        return False

    def _stop(self) -> int:
        """Stop the worker; its tasks get until the bound."""
        HEALTHY.unlink(missing_ok=True)
        logs = logs_of_running_tasks(self.app, self.node)  # once it stops it answers no more
        self.worker.terminate()  # the main process alone: it takes nothing new and waits for its tasks
        if self._finishes_its_tasks():
            return self.worker.wait()
        running = task_processes(self.worker.pid)
        reason = (
            f"WORKER_STOP_TIMEOUT_S={self.stop_s:g} has passed while its worker stops: "
            "the task is ended here and goes to retry. For longer tasks raise it in .env."
        )
        _say(f"{self.node}: {reason} Tasks: {len(running)}.")
        for task_instance in set(running.values()) & logs.keys():
            add_to_task_log(logs[task_instance], reason)
        _signal_all(running, signal.SIGTERM)
        if not self._ends_within(KILL_AFTER_S):
            _signal_all(running, signal.SIGKILL)
        if not self._ends_within(REPORT_WITHIN_S):
            self.worker.kill()
        return self.worker.wait()

    def _finishes_its_tasks(self) -> bool:
        """Wait until the worker ended; False if tasks still run at the bound."""
        end = time.monotonic() + self.stop_s
        idle_since = time.monotonic()
        while not self._ends_within(0.5):
            if task_processes(self.worker.pid):
                idle_since = time.monotonic()
                if idle_since >= end:
                    return False
            elif time.monotonic() - idle_since > IDLE_PATIENCE_S:
                self.worker.kill()  # nothing runs: it waits for a broker that is gone
        return True

    def _ends_within(self, seconds: float) -> bool:
        try:
            self.worker.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def consumed_queues(app: Celery, node: str) -> set[str] | None:
    """Ask `node` which queues it consumes; None if the broker does not answer."""
    try:
        answers = app.control.inspect([node], timeout=ANSWER_TIMEOUT_S).active_queues() or {}
    except NO_BROKER:
        return None
    return {queue["name"] for queue in answers.get(node, [])}


def task_processes(worker: int) -> dict[int, str]:
    """Give each running task below the Celery process `worker`: its pid, and its task instance's id.

    Airflow makes each task's process the leader of a group, whoever forked it, and has it tell its id
    in its title; "" before it does.
    """
    children: dict[int, list[tuple[int, int]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, parent, group, *_ = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(parent), []).append((int(stat.parent.name), int(group)))
    found, below = {}, [worker]
    while below:
        for pid, leader in children.get(below.pop(), []):
            if pid == leader:
                found[pid] = _task_instance_of(pid)
            else:
                below.append(pid)
    return found


def _task_instance_of(process: int) -> str:
    with contextlib.suppress(OSError):
        title = Path(f"/proc/{process}/cmdline").read_text().rstrip("\0 ")
        return title.partition("airflow worker -- ")[2]
    return ""


def logs_of_running_tasks(app: Celery, node: str) -> dict[str, Path]:
    """Ask `node` what it runs: task instance's id → log file; {} if it does not answer."""
    folder = Path(os.environ.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", "/opt/airflow/logs"))
    with contextlib.suppress(*NO_BROKER, ValueError, KeyError, TypeError):
        answers = app.control.inspect([node], timeout=ANSWER_TIMEOUT_S).active() or {}
        # One argument: Airflow's workload, which names the log relative to the folder of logs.
        workloads = [json.loads(task["args"][0]) for task in answers.get(node, [])]
        return {workload["ti"]["id"]: folder / workload["log_path"] for workload in workloads}
    return {}


def add_to_task_log(log: Path, message: str) -> None:
    """Append `message` to the task's `log`, a JSON line like those of Airflow."""
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": "error", "event": message}
    with contextlib.suppress(OSError), log.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _signal_all(processes: Iterable[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the container's log


def main() -> int:
    """Run the worker that the command line describes; give its exit code."""
    parser = argparse.ArgumentParser(prog="python -m compose.guard")
    parser.add_argument("--node", required=True)
    parser.add_argument("--queues", required=True)
    parser.add_argument("--stop-timeout-s", type=float, required=True)
    parser.add_argument("--check-s", type=float, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = [word for word in options.command if word != "--"]
    queues = set(options.queues.split(","))
    return Guard(command, options.node, queues, options.stop_timeout_s, options.check_s).run()


if __name__ == "__main__":
    sys.exit(main())

"""A small client of the stack's REST API: trigger a run, watch it, read what it left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

REPEAT_FOR_S = 60
DONE = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class StackError(RuntimeError):
    """The stack answered something else than expected, or not at all."""


@dataclass(frozen=True)
class TaskState:
    """One try of one task instance as the API reports it; `duration_s` is None until it ended."""

    task_id: str
    map_index: int
    map_label: str
    state: str
    queue: str
    worker: str
    try_number: int
    duration_s: float | None

    @property
    def label(self) -> str:
        if self.map_index < 0:
            return self.task_id
        return f"{self.task_id}[{self.map_label or self.map_index}]"


class AirflowClient:
    """A logged-in session with the api-server.

    Args:
        url: base address, `http://127.0.0.1:8080`.

    Raises:
        StackError: nobody answers there, or the login is refused.
    """

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30)
        login = {"username": user, "password": password}
        token = self._send("POST", "/auth/token", json=login)["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def wait_for_dag(self, dag_id: str, *, deadline_s: float) -> None:
        """Wait until `dag_id` is known.

        Raises:
            StackError: it is not, after `deadline_s`, or it is paused.
        """
        end = time.monotonic() + deadline_s
        while (dag := self.find_dag(dag_id)) is None:
            if time.monotonic() > end:
                raise StackError(self._why_missing(dag_id))
            time.sleep(0.2)
        if dag["is_paused"]:
            raise StackError(
                f"Expected the DAG {dag_id} to be unpaused, found it paused. Unpause it in the UI, "
                f'or: make airflow ARGS="dags unpause {dag_id}"'
            )

    def find_dag(self, dag_id: str) -> dict[str, Any] | None:
        """Give what the API says of `dag_id`, or None where it is not known."""
        found = self._send("GET", "/api/v2/dags", params={"dag_id_pattern": dag_id})["dags"]
        return next((dag for dag in found if dag["dag_id"] == dag_id), None)

    def import_errors(self) -> dict[str, str]:
        """Give the DAG files that could not be read: file name → reason."""
        errors = self._send("GET", "/api/v2/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def _why_missing(self, dag_id: str) -> str:
        traces = "\n".join(f"{file}:\n{why}" for file, why in self.import_errors().items())
        return f"Expected the DAG {dag_id}, found none.\n{traces or 'No import error is reported.'}"

    def trigger(
        self, dag_id: str, conf: dict[str, Any] | None = None, *, logical_date: str | None = None
    ) -> str:
        """Start a run now, for the date given (ISO 8601) or for none; give its id."""
        body = {"logical_date": logical_date, "conf": conf or {}}
        return str(self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Give the run's state: queued, running, success or failed."""
        return str(self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Give the state of each task instance of the run, in the order in which they started."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        rows = self._send("GET", path, params={"limit": 100})["task_instances"]
        rows.sort(key=lambda row: (row["start_date"] or "9", row["task_id"], row["map_index"]))
        return [
            TaskState(
                row["task_id"],
                row["map_index"],
                row["rendered_map_index"] or "",
                row["state"] or "waiting",
                row["queue"] or "",
                row["hostname"] or "",
                row["try_number"],
                row["duration"],
            )
            for row in rows
        ]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Give what a task returned (its XCom `return_value`)."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        entry = self._send("GET", f"{path}/xcomEntries/return_value", params={"deserialize": True})
        return entry["value"]

    def tries(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """Give every try of a task, oldest first, with the API's fields."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/tries"
        rows: list[dict[str, Any]] = self._send("GET", path)["task_instances"]
        return sorted(rows, key=lambda row: row["try_number"])

    def log_tail(self, dag_id: str, run_id: str, task: TaskState, lines: int = 30) -> str:
        """Give the last lines of a task's log."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs"
        params = {"map_index": task.map_index, "full_content": True}
        answer = self._send("GET", f"{path}/{task.try_number}", params=params)
        return "\n".join(_log_line(entry) for entry in answer["content"][-lines:])

    def _send(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """Ask, and ask again for up to a minute while the stack comes back from a fault.

        Only a GET is repeated: another request may have been carried out before it failed.
        """
        end = time.monotonic() + (REPEAT_FOR_S if method == "GET" else 0)
        while True:
            try:
                answer = self._http.request(method, path, **kwargs)
            except httpx.TransportError as error:
                if time.monotonic() > end:
                    raise StackError(
                        f"Expected the api-server at {self.url}, found: {error}. Look: make status"
                    ) from error
            else:
                if not answer.is_server_error or time.monotonic() > end:
                    return self._read(answer, method, path)
            time.sleep(0.5)

    def _read(self, answer: httpx.Response, method: str, path: str) -> dict[str, Any]:
        if answer.is_error:
            raise StackError(
                f"Expected {method} {path} to succeed, "
                f"found HTTP {answer.status_code}: {answer.text[:500]}"
            )
        data: dict[str, Any] = answer.json()
        return data


def _log_line(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    line = f"{entry.get('timestamp') or ''} {entry.get('level') or ''} {entry['event']}"
    for error in entry.get("error_detail") or []:
        line += f"\n  {error.get('exc_type')}: {error.get('exc_value')}"
    return line.strip()

"""Flower with a login on every page and tasks by their names: `python -m compose.flower --hostname … --port …`.

Flower answers `/metrics` and `/healthcheck` to anybody, basic authentication or not. Here they ask
for the login as its other pages do. Every task of Airflow is one Celery task, `execute_workload`: shown is the label
that travels with it, `wdbc_training.train[2]` (celery_stack.task_label). What a worker has reserved it tells with the
tasks' tokens in it; they are taken out.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from celery import Celery

from celery_stack.options import read_option
from celery_stack.task_label import HIDDEN, label_of
from compose.commands import SECRET_OPTIONS

OPEN_PATHS = ("/metrics", "/healthcheck")


def close_open_pages(handlers: list[Any]) -> None:
    """Make the pages among Flower's `handlers` that anybody may read ask for the login.

    Raises:
        RuntimeError: this Flower has other pages than the one that was looked at.
    """
    from tornado.web import authenticated

    found = [entry for entry in handlers if isinstance(entry, tuple) and entry[0] in OPEN_PATHS]
    if len(found) != len(OPEN_PATHS):
        raise RuntimeError(
            f"Expected Flower to have the pages {', '.join(OPEN_PATHS)}, found {len(found)} of "
            "them. Look into flower/urls.py of the locked version."
        )
    for path, handler, *rest in found:
        closed = type(f"Closed{handler.__name__}", (handler,), {"get": authenticated(handler.get)})
        handlers[handlers.index((path, handler, *rest))] = (path, closed, *rest)


def name_task(task: Any) -> Any:
    """Give Flower's `task` under the label that its message carries."""
    if task.args and task.args != HIDDEN:
        task.name = task.args
    return task


def without_content(method: str, response: Any) -> Any:
    """Give what a worker answered, labels in the place of what its waiting tasks hold."""
    if method not in ("reserved", "scheduled"):
        return response
    requests = [one.get("request", one) for one in response]
    for request in requests:
        content = next(iter(request.get("args") or ()), "")
        request["args"] = label_of(content)
    return response


def hide_content(inspector: Any) -> None:
    """Have Flower's class `inspector` keep nothing of what tasks hold."""
    keep = inspector._on_update

    def keep_label(self: Any, worker: str, method: str, response: Any) -> None:
        keep(self, worker, method, without_content(method, response))

    inspector._on_update = keep_label


def main() -> None:
    """Run Flower on the stack's broker: it needs Celery for that, not Airflow, which takes 80 MiB."""
    parser = argparse.ArgumentParser(prog="python -m compose.flower")
    parser.add_argument("--hostname", required=True)
    parser.add_argument("--port", required=True)
    arguments = parser.parse_args()
    from flower.inspector import Inspector
    from flower.options import options
    from flower.urls import handlers

    close_open_pages(handlers)
    hide_content(Inspector)
    options.format_task = name_task
    broker, results, login = (
        read_option(option, os.environ) for option in SECRET_OPTIONS["flower"]
    )
    address = [f"--address={arguments.hostname}", f"--port={arguments.port}"]
    Celery(broker=broker, backend=results).start(["flower", *address, f"--basic-auth={login}"])


if __name__ == "__main__":
    main()

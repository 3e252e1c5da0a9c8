"""Flower with a login on every page: `python -m compose.flower --hostname … --port …`.

Flower answers `/metrics` and `/healthcheck` to anybody, basic authentication or not. Here they ask
for the login as its other pages do.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from celery import Celery

from celery_stack.options import read_option
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


def main() -> None:
    """Run Flower on the stack's broker: it needs Celery for that, not Airflow, which takes 80 MiB."""
    parser = argparse.ArgumentParser(prog="python -m compose.flower")
    parser.add_argument("--hostname", required=True)
    parser.add_argument("--port", required=True)
    arguments = parser.parse_args()
    from flower.urls import handlers

    close_open_pages(handlers)
    broker, results, login = (
        read_option(option, os.environ) for option in SECRET_OPTIONS["flower"]
    )
    address = [f"--address={arguments.hostname}", f"--port={arguments.port}"]
    Celery(broker=broker, backend=results).start(["flower", *address, f"--basic-auth={login}"])


if __name__ == "__main__":
    main()

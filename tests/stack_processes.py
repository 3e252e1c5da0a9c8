"""What the processes of a running stack show of themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import psutil

from compose.secret_files import read_secret
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack

Seen = TypeVar("Seen")


def look_at(stack: RunningStack, prefix: str, look: Callable[[psutil.Process], Seen]) -> list[Seen]:
    """Look at the supervised processes whose name starts with `prefix`, and at all they started.

    Tasks and health checks come and go: one that ended before it was looked at shows nothing.
    """
    seen = []
    for program in Supervisor(stack.home).processes():
        if program["name"].startswith(prefix) and program["pid"]:
            parent = psutil.Process(program["pid"])
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    seen.append(look(process))
    assert seen, f"no process of {prefix!r} could be looked at"
    return seen


def what_it_shows(process: psutil.Process) -> tuple[str, str]:
    """Give a process's name, and its command line and environment."""
    return process.name(), " ".join([*process.cmdline(), *process.environ().values()])


def open_doors(process: psutil.Process) -> list[tuple[str, str, int]]:
    """Give name, address and port of each port that the process listens on."""
    return [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def all_secrets(stack: RunningStack) -> set[str]:
    """Give what every secret file holds; connections without a mail server hold nothing."""
    files = [path for path in stack.home.secrets.rglob("*") if path.is_file()]
    return {read_secret(path) for path in files} - {"{}"}

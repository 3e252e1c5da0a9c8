"""Ports of the run without Docker: the ones asked for, else the next free ones."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Above it the kernel hands out ports to outgoing connections: one could be taken at any moment.
HIGHEST = 32767


class NoFreePortError(RuntimeError):
    """Every port from the one asked for up to 32767 is taken."""


def choose_ports(wanted: Mapping[str, int], remembered: Path) -> dict[str, int]:
    """Give each name a free loopback port: last start's, else the wanted, else the next free."""
    last: dict[str, int] = json.loads(remembered.read_text()) if remembered.exists() else {}
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        # A changed setting wins over what was remembered for the old one.
        known = last.get(name, port) if last.get(f"{name}_wanted") == port else port
        taken = set(chosen.values())
        chosen[name] = known if _is_free(known, taken) else _next_free(port, taken)
    record = chosen | {f"{name}_wanted": port for name, port in wanted.items()}
    remembered.write_text(json.dumps(record, indent=1) + "\n")
    return chosen


@contextmanager
def one_start_at_a_time(say: Callable[[str], object]) -> Iterator[None]:
    """Hold off other stacks' starts on this machine until this one's servers listen.

    The lock is on the folder for temporary files itself: nothing is left behind.

    Args:
        say: told when another start has to be waited for.
    """
    handle = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another stack is starting on this machine: waiting until it is up")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _next_free(start: int, taken: set[int]) -> int:
    for port in range(start, HIGHEST + 1):
        if _is_free(port, taken):
            return port
    raise NoFreePortError(f"Expected a free port from {start} to {HIGHEST}, found none. Free one.")


def _is_free(port: int, taken: set[int]) -> bool:
    if port in taken:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

"""What a DAG file prints and logs while it is parsed is part of the log of each of its tasks."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from celery_stack.warm.sources import is_installed

MAX_BYTES = 1 << 20


@dataclass
class Output:
    """What a file printed and logged while it was parsed: part of the log of each of its tasks."""

    log_fd: int
    log: bytes = b""
    stdout: bytes = b""
    stderr: bytes = b""

    def replay(self) -> None:
        """Write it where a task's own output goes."""
        for stream, content in ((sys.stdout, self.stdout), (sys.stderr, self.stderr)):
            stream.buffer.write(content)
            stream.flush()
        with open(self.log_fd, "wb", closefd=False) as log:
            log.write(self.log)


def log_as_tasks_do() -> int:
    """Set up logging as in a task, before templates are forked: it writes to 6 MiB that each would have of its own.

    Returns: the descriptor that logs go to: of this process, its standard error.
    """
    from airflow.sdk.execution_time import supervisor

    log_fd = os.dup(2)
    supervisor._configure_logs_over_json_channel(log_fd)
    _open_streams()
    return log_fd


def _open_streams() -> None:
    """Setting up logging has closed the former ones; a task opens its own."""
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "w", closefd=False)) for fd in (1, 2))


@contextmanager
def capturing(log_fd: int) -> Iterator[Output]:
    """Capture what is printed and logged; logs go to memory afterwards, too."""
    memory = os.memfd_create("log")
    os.dup2(memory, log_fd, inheritable=False)
    os.close(memory)
    output = Output(log_fd)
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    files = {fd: os.memfd_create(f"output-{fd}") for fd in (1, 2)}
    for fd, file in files.items():
        os.dup2(file, fd)
    _open_streams()
    try:
        yield output
    finally:
        flush()
        for fd, former in kept.items():
            os.dup2(former, fd)
            os.close(former)
        output.stdout, output.stderr = _take(files[1]), _take(files[2])
        lines = _take(output.log_fd, close=False).splitlines(keepends=True)
        output.log = b"".join([line for line in lines if _is_of_the_file(line)])


def _is_of_the_file(line: bytes) -> bool:
    """Say whether a log line is the file's own, not Airflow's of its parsing or a package's warning."""
    if not line.endswith(b"\n"):  # cut off at the limit
        return False
    entry = json.loads(line)
    warned = entry.get("logger") == "py.warnings" and is_installed(entry.get("filename", ""))
    return not (warned or str(entry.get("logger")).startswith("airflow.dag_processing."))


def flush() -> None:
    """Write out what the standard streams hold."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _take(file: int, *, close: bool = True) -> bytes:
    """Give what was written to a memory file, up to a limit."""
    content = os.pread(file, MAX_BYTES, 0)
    if close:
        os.close(file)
    return content

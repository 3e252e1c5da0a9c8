"""The guardian: forks the template server, and another one when that has died; one per worker.

What is forked from Celery's main process must be forked before its pool: later on it has threads, and
connections that nobody else may use. So a process of that moment stays, and does nothing but fork
servers. It holds the control channel too: what supervisors ask while there is no server, they ask the
next one. Should the guardian itself be killed, its server ends too, and tasks parse for themselves.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from celery_stack.warm.channel import close_fds, receive
from celery_stack.warm.lifelines import die_with_parent
from celery_stack.warm.server import decline, serve, set_title

# A server that lived so long has not died of what it does first.
STEADY_S = 60.0
# One that did not is replaced after a rest, twice as long each time.
FIRST_REST_S = 1.0
LAST_REST_S = 60.0

STANDARD_FILES = (0, 1, 2)

log = logging.getLogger(__name__)


def guard(control: socket.socket, parent: int, *, most: int) -> NoReturn:
    """Be the guardian of the worker whose main process is `parent`."""
    from airflow.sdk.execution_time.supervisor import _make_process_nondumpable

    try:
        die_with_parent(parent)
        # Tasks of one worker must not read each other's memory; as in Airflow's supervisor.
        _make_process_nondumpable()
        # It ends with its worker, which may take its time after a signal to the whole group.
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        gc.disable()
        _drop_files({*STANDARD_FILES, control.fileno()})
        set_title("airflow template guardian")
        keep_serving(control, lambda: _fork_server(control, most))
    except BaseException:
        log.exception("No template server is started any more; tasks parse for themselves")
    finally:
        os._exit(0)


def keep_serving(control: socket.socket, fork_server: Callable[[], int]) -> None:
    """Have a server until one ends of its own accord, as it does when no supervisor is left."""
    rest_s = 0.0
    while True:
        began = time.monotonic()
        _, status = os.waitpid(fork_server(), 0)
        code = os.waitstatus_to_exitcode(status)
        if not code:
            return
        steady = time.monotonic() - began > STEADY_S
        rest_s = 0.0 if steady else min(max(FIRST_REST_S, 2 * rest_s), LAST_REST_S)
        log.warning(
            "The template server died (%d); the next one starts in %.0f s, until then tasks parse for "
            "themselves",
            code,
            rest_s,
        )
        decline_all(control, rest_s)


def decline_all(control: socket.socket, seconds: float) -> None:
    """Let nobody wait for an answer meanwhile."""
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        if not select.select([control], [], [], left_s)[0]:
            return
        request, fds = receive(control)
        if request is None:
            return
        decline(fds[0], "the template server has died")
        close_fds(fds)


def _fork_server(control: socket.socket, most: int) -> int:
    guardian, pid = os.getpid(), os.fork()
    if not pid:
        serve(control, guardian, most=most)
    return pid


def _drop_files(keep: set[int]) -> None:
    """Drop the worker's open files but `keep`: a pipe of its pool held open here would hide an end.

    Their numbers stay taken, because objects that were inherited with them still close them.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in keep and fd != nothing:
            with suppress(OSError):  # the listing's own
                os.fstat(fd)
                os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)

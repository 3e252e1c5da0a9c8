"""A template: a process that has parsed one version of one DAG file, and forks tasks that start with it.

It takes no part in a task but giving birth to it and telling its supervisor how it ended.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from celery_stack.warm.channel import close_fds, receive, send
from celery_stack.warm.lifelines import die_with_parent, outlive_parent
from celery_stack.warm.output import Output, capturing, flush
from celery_stack.warm.parse import parse_once


def run_template(
    request: dict[str, Any], channel: socket.socket, server: int, log_fd: int
) -> NoReturn:
    """Parse the file, report, and fork tasks until the server hangs up and the last one has ended.

    Args:
        log_fd: what log_as_tasks_do gave.
    """
    try:
        with capturing(log_fd) as output:
            report = parse_once(request)
        send(channel, report)
        if not report["unfit"]:
            Forks(channel, server, output).run()
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(0)


class Forks:
    """Forks a task for each request of the channel, and reports its exit code to its supervisor.

    While it has tasks it outlives its server: they are not to die of what happened to that.
    """

    def __init__(self, channel: socket.socket, server: int, output: Output) -> None:
        self._channel = channel
        self._server = server
        self._output = output
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, self._on_request)
        self._supervisors: dict[int, socket.socket] = {}
        self._accepting = True

    def run(self) -> None:
        """Serve until the server hangs up and the last task has ended."""
        while self._accepting or self._supervisors:
            for key, _ in self._selector.select():
                key.data()

    def _on_request(self) -> None:
        request, fds = receive(self._channel)
        if request is None:
            self._accepting = False
            self._selector.unregister(self._channel)
            return
        parent, supervisor = os.getpid(), socket.socket(fileno=fds[0])
        pid = os.fork()
        if not pid:
            self._forget_everything()
            supervisor.close()
            become_task(parent, fds[1:], self._output)
        close_fds(fds[1:])
        self._watch(pid, supervisor)

    def _forget_everything(self) -> None:
        """Close, in a task, what belongs to the template: an open end looks like a living process."""
        self._selector.close()
        self._channel.close()
        for other in self._supervisors.values():
            other.close()

    def _watch(self, pid: int, supervisor: socket.socket) -> None:
        outlive_parent()
        with suppress(OSError):
            os.setpgid(pid, pid)  # as the task does itself: the group is there whoever is faster
        pidfd = os.pidfd_open(pid)
        self._supervisors[pid] = supervisor
        self._selector.register(pidfd, selectors.EVENT_READ, partial(self._on_exit, pid, pidfd))
        self._selector.register(
            supervisor, selectors.EVENT_READ, partial(self._on_supervisor_gone, pid, supervisor)
        )
        _tell(supervisor, {"pid": pid})

    def _on_exit(self, pid: int, pidfd: int) -> None:
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        supervisor = self._supervisors.pop(pid)
        if supervisor.fileno() >= 0:
            self._selector.unregister(supervisor)
            _tell(supervisor, {"exit": os.waitstatus_to_exitcode(status)})
            supervisor.close()
        if not self._supervisors:
            die_with_parent(self._server)

    def _on_supervisor_gone(self, pid: int, supervisor: socket.socket) -> None:
        """A supervisor says nothing: what can be read is that it is gone, and its task must go too."""
        self._selector.unregister(supervisor)
        supervisor.close()
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return


def _tell(supervisor: socket.socket, message: dict[str, Any]) -> None:
    try:
        send(supervisor, message)
    except OSError:  # gone: _on_supervisor_gone deals with it
        return


def become_task(parent: int, fds: list[int], output: Output) -> NoReturn:
    """Run Airflow's task runner on the four sockets of its supervisor: requests, stdout, stderr, logs."""
    from airflow.sdk.execution_time import supervisor

    os.setpgid(0, 0)
    die_with_parent(parent)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the template ignores it
    gc.enable()
    _reseed()
    # Logging has been set up already, to write to this descriptor; 0 says so to _fork_main.
    os.dup2(fds[3], output.log_fd)
    os.close(fds[3])
    requests, stdout, stderr = (socket.socket(fileno=fd) for fd in fds[:3])

    def run_task() -> None:
        output.replay()
        supervisor._subprocess_main()  # type: ignore[no-untyped-call]

    supervisor._fork_main(requests, stdout, stderr, 0, run_task)


def _reseed() -> None:
    """Give numpy's global generator a state of its own; Python's `random` does so by itself."""
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()

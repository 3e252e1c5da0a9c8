"""A task's supervisor that wakes when the task's process ends, and has it forked from a template.

Airflow's own looks for the end of the process only when a socket or its timer wakes it. When the last
socket closes a moment before the process can be waited for, it sleeps on for
`[workers] min_heartbeat_interval`, five seconds, and the slot of the worker with it. Here the end is an
event like the others. The heartbeat right after the start, which the server has just been told of
anyway, is left out.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import partial
from selectors import EVENT_READ
from typing import Any, Self

import structlog
from airflow.sdk.execution_time import supervisor as airflow_supervisor
from airflow.sdk.execution_time.supervisor import ActivitySubprocess, ProcessTracker

from celery_stack.warm.channel import make_pair, receive, send
from celery_stack.warm.lifelines import die_with_parent

# A template forks within milliseconds; the server parses nothing itself.
ANSWER_TIMEOUT_S = 5.0
# A task's entry point in a new interpreter, on the files 0, 1 and 2 that its supervisor gave it.
FRESH_TASK = f"from {airflow_supervisor.__name__} import _child_exec_main; _child_exec_main()"

# As psutil gives the exit code of a process that a signal ended; Airflow looks at its name.
EndedBySignal = IntEnum("EndedBySignal", {name.name: -name.value for name in signal.Signals})  # type: ignore[misc]

log = logging.getLogger(__name__)


class TemplateChild(ProcessTracker):
    """A task's process that a template forked, and whose end the template tells of."""

    class ProcessNotFound(ProcessLookupError):  # noqa: N818 - Airflow's name
        """The process is gone."""

    TimeoutExpired = TimeoutError

    def __init__(self, pid: int, template: socket.socket) -> None:
        self._pid = pid
        self._template = template
        self._exit_code: int | None = None

    @property
    def pid(self) -> int:
        """The task's process."""
        return self._pid

    def fileno(self) -> int:
        """Give what can be read once the process has ended."""
        return self._template.fileno()

    def send_signal(self, s: signal.Signals) -> None:
        """Send a signal.

        Raises:
            ProcessNotFound: it has ended.
        """
        try:
            os.kill(self._pid, s)
        except ProcessLookupError as error:
            raise self.ProcessNotFound(str(error)) from None

    def wait(self, timeout: float | None) -> int:
        """Give the exit code; negative for a signal, SIGKILL if the template died with its task.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
        """
        if self._exit_code is None:
            self._template.settimeout(timeout)
            try:
                message, _ = receive(self._template)
            except BlockingIOError:
                raise TimeoutError from None
            code = message["exit"] if message else -signal.SIGKILL
            self._exit_code = EndedBySignal(code) if code < 0 else code
            self._template.close()
        return self._exit_code


class WarmSupervisor(ActivitySubprocess):
    """ActivitySubprocess that is woken by the end of its process, wherever that was forked."""

    @classmethod
    def start_from_template(
        cls, request: dict[str, Any], server: socket.socket, **start: Any
    ) -> Self | None:
        """Start a task forked from the template that `request` asks `server` for; None if it declines.

        Args:
            start: the arguments of ActivitySubprocess.start.
        """
        pairs = [socket.socketpair() for _ in ("requests", "stdout", "stderr", "logs")]
        ours, theirs = zip(*pairs, strict=True)
        child = ask_for_task(request, server, theirs)
        for each in theirs if child else (*theirs, *ours):
            each.close()
        if child is None:
            return None
        return cls._begin(partial(cls._attach, child, ours), **start)

    @classmethod
    def _attach(
        cls,
        child: TemplateChild,
        sockets: tuple[socket.socket, ...],
        *,
        logger: Any = None,
        **options: Any,
    ) -> Self:
        """Do what WatchedSubprocess.start does once it has forked."""
        requests, stdout, stderr, logs = sockets
        process = cls(
            pid=child.pid,
            stdin=requests,
            process=child,
            process_log=logger or structlog.get_logger(logger_name="task").bind(),
            **options,
        )
        process._register_pipe_readers(stdout, stderr, requests, logs, data={})
        return process

    @classmethod
    def start_forked(cls, **start: Any) -> Self:
        """Start a task forked from this process, as ActivitySubprocess.start does."""
        parent = os.getpid()

        def run_task() -> None:
            die_with_parent(parent)
            airflow_supervisor._subprocess_main()  # type: ignore[no-untyped-call]

        return cls.start(target=run_task, **start)

    @classmethod
    def start_fresh(cls, **start: Any) -> Self:
        """Start a task in a new interpreter, as ActivitySubprocess.start does where a fork is unsafe."""
        parent, environment = os.getpid(), dict(os.environ)

        def run_interpreter() -> None:
            die_with_parent(parent)  # this outlives an exec
            command = [sys.executable, "-c", FRESH_TASK]
            os.execve(sys.executable, command, environment)  # noqa: S606 - exec is the point

        return cls.start(target=run_interpreter, **start)

    @classmethod
    def _begin(
        cls,
        make: Callable[..., Self],
        *,
        what: Any,
        dag_rel_path: Any,
        bundle_info: Any,
        sentry_integration: str = "",
        **options: Any,
    ) -> Self:
        """Make a process and tell it what to do: ActivitySubprocess.start, however it is made."""
        process = make(id=what.id, new_process_group=True, **options)
        process._on_child_started(
            ti=what,
            dag_rel_path=dag_rel_path,
            bundle_info=bundle_info,
            sentry_integration=sentry_integration,
        )
        return process

    def _on_child_started(self, **start: Any) -> None:
        self._watch_end()
        super()._on_child_started(**start)
        self._last_heartbeat_attempt = time.monotonic()

    def _watch_end(self) -> None:
        """Register the process's end with the selector, as if it were one of its sockets."""
        if isinstance(self._process, TemplateChild):
            end = _End(os.dup(self._process.fileno()))
        else:
            end = _End(os.pidfd_open(self.pid))
        # What Airflow keeps for each of its sockets: a reader, which says whether there is more to
        # come, and what to do when there is not.
        self.selector.register(end, EVENT_READ, (lambda _: False, self._on_socket_closed))


class _End:
    """A descriptor that can be read when a process has ended, with the methods of a socket."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def ask_for_task(
    request: dict[str, Any], server: socket.socket, sockets: Iterable[socket.socket]
) -> TemplateChild | None:
    """Ask for a task's process whose requests, stdout, stderr and logs are `sockets`.

    Returns: the process; None if the server declines, does not answer or is gone.
    """
    ours, theirs = make_pair()
    ours.settimeout(ANSWER_TIMEOUT_S)
    try:
        with theirs:
            send(server, request, [theirs.fileno(), *(each.fileno() for each in sockets)])
        answer, _ = receive(ours)
    except OSError as error:
        answer = {"declined": f"{type(error).__name__}: {error}"}
    if answer and "pid" in answer:
        return TemplateChild(answer["pid"], ours)
    log.debug("No template for %s: %s", request["path"], answer and answer.get("declined"))
    ours.close()
    return None

"""The template server: makes a template for each DAG file that tasks ask for, and retires it in time.

One per worker, forked by its guardian. It never keeps a task waiting: while there is no template that
fits, it declines, and the supervisor forks a task that parses for itself.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, TypeAlias

from celery_stack import metrics
from celery_stack.warm.channel import close_fds, make_pair, receive, send
from celery_stack.warm.lifelines import die_with_parent
from celery_stack.warm.output import log_as_tasks_do
from celery_stack.warm.sources import Signature, find_change
from celery_stack.warm.template import run_template

Key: TypeAlias = tuple[str, str | None, str]  # bundle, version, path of the file in it

# A template is made anew after so long or so many tasks, whatever it did: a file may read the clock.
MAX_AGE_S = 300.0
MAX_TASKS = 500
# A file that changes all the time is not worth more than one parse in so many seconds.
REBUILD_S = 5.0
# DagBag gives an import 30 seconds; what hangs beyond that hangs outside Python.
MAX_PARSE_S = 120.0
SWEEP_S = 30.0

log = logging.getLogger(__name__)


@dataclass
class Template:
    """One template process; until it reports it has no sources, and takes no tasks."""

    pid: int
    channel: socket.socket
    made_at: float = field(default_factory=time.monotonic)
    sources: dict[str, Signature | None] | None = None
    unfit: str = ""
    passing: bool = False  # what makes it unfit will have passed soon
    ended: bool = False
    tasks: int = 0
    used_at: float = field(default_factory=time.monotonic)

    def objection(self) -> str:
        """Say why it cannot take a task just now; "" if it can."""
        if self.sources is None:
            return "its template is being made"
        return self.unfit and f"it cannot be shared: {self.unfit}"

    def is_over(self) -> bool:
        """Say whether it must be made anew."""
        if self.sources is None:
            return False
        age_s = time.monotonic() - self.made_at
        worn = age_s > MAX_AGE_S or self.tasks >= MAX_TASKS or (self.ended and not self.unfit)
        passed = self.passing and age_s > REBUILD_S
        return worn or passed or find_change(self.sources) is not None


class TemplateServer:
    """Answers the supervisors' requests of one worker, which arrive on `control`."""

    def __init__(self, control: socket.socket, log_fd: int, *, most: int) -> None:
        self._control = control
        self._log_fd = log_fd
        self._most = most
        self._templates: dict[Key, Template] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._on_request)

    def run(self) -> None:
        """Serve until no supervisor is left."""
        sweep_at = time.monotonic() + SWEEP_S
        while self._control.fileno() >= 0:
            for key, _ in self._selector.select(SWEEP_S):
                key.data()
            if time.monotonic() >= sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + SWEEP_S

    def _sweep(self) -> None:
        """Retire the templates that nobody asks for any more, and end the parses that hang."""
        for key, template in list(self._templates.items()):
            if template.is_over():
                self._retire(key)
            elif template.sources is None and time.monotonic() - template.made_at > MAX_PARSE_S:
                os.kill(template.pid, signal.SIGKILL)

    def _on_request(self) -> None:
        request, fds = receive(self._control)
        if request is None:
            self._selector.unregister(self._control)
            self._control.close()
            return
        try:
            if objection := self._pass_on(request, fds):
                decline(fds[0], objection)
        finally:
            close_fds(fds)

    def _pass_on(self, request: dict[str, Any], fds: list[int]) -> str:
        """Hand the request to its template; say why not if that cannot be."""
        template = self._find(request, fds)
        if objection := template.objection():
            return objection
        if not _try_send(template.channel, {}, fds):
            return "its template does not answer"
        template.tasks += 1
        template.used_at = time.monotonic()
        return ""

    def _find(self, request: dict[str, Any], fds: list[int]) -> Template:
        """Give the file's template; a new one if there is none or it is over."""
        key: Key = (request["bundle"], request["version"], request["path"])
        template = self._templates.get(key)
        if template and not template.is_over():
            return template
        if template and time.monotonic() - template.made_at < REBUILD_S:
            self._hang_up(template)
            template.unfit, template.passing = "it has just changed", True
            return template
        if template:
            self._retire(key)
        self._make_room()
        self._templates[key] = self._fork(request, fds)
        return self._templates[key]

    def _make_room(self) -> None:
        while len(self._templates) >= self._most:
            self._retire(min(self._templates, key=lambda key: self._templates[key].used_at))

    def _fork(self, request: dict[str, Any], fds: list[int]) -> Template:
        ours, theirs = make_pair()
        server, pid = os.getpid(), os.fork()
        if not pid:
            close_fds(fds)
            ours.close()
            self._forget_everything()
            die_with_parent(server)
            set_title(f"airflow template: {request['path']}")
            run_template(request, theirs, server, self._log_fd)
        theirs.close()
        ours.setblocking(False)
        template = Template(pid, ours)
        pidfd = os.pidfd_open(pid)
        self._watch(pidfd, partial(self._on_exit, template, pidfd))
        self._watch(ours, partial(self._on_report, template, request["path"]))
        return template

    def _watch(self, file: int | socket.socket, react: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, react)

    def _forget_everything(self) -> None:
        """Close, in a template, what belongs to the server: an open end looks like a living process."""
        self._selector.close()
        self._control.close()
        for template in self._templates.values():
            template.channel.close()

    def _on_report(self, template: Template, path: str) -> None:
        """Take what a template says of itself; the only other thing to read is that it has ended."""
        if template.channel.fileno() < 0:
            return
        report, _ = receive(template.channel)
        if template.sources is not None:
            self._hang_up(template)
            return
        report = report or {
            "sources": {},
            "unfit": "the process that parsed it died",
            "passing": False,
        }
        template.sources = {
            file: found and tuple(found) for file, found in report["sources"].items()
        }
        template.unfit, template.passing = report["unfit"], report["passing"]
        if template.unfit:
            log.info("Tasks of %s parse it themselves: %s", path, template.unfit)

    def _on_exit(self, template: Template, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(template.pid, 0)
        template.ended = True

    def _retire(self, key: Key) -> None:
        """Take no more tasks to a template; it ends after those that it has."""
        self._hang_up(self._templates.pop(key))

    def _hang_up(self, template: Template) -> None:
        if template.channel.fileno() >= 0:
            self._selector.unregister(template.channel)
            template.channel.close()


def serve(control: socket.socket, guardian: int, *, most: int) -> NoReturn:
    """Be the template server that the process `guardian` has forked; exit with 0 if it was left alone."""
    code = 1
    try:
        die_with_parent(guardian)
        metrics.reconnect()  # for every task that is forked from here
        set_title("airflow templates")
        log_fd = log_as_tasks_do()
        gc.freeze()
        TemplateServer(control, log_fd, most=most).run()
        code = 0
    except BaseException:
        log.exception("The template server ends")
    finally:
        os._exit(code)


def set_title(title: str) -> None:
    """Say in the list of processes what this one is."""
    from setproctitle import setproctitle

    setproctitle(title)


def decline(fd: int, reason: str) -> None:
    """Tell the supervisor at the other end of `fd` to start its task itself."""
    with socket.socket(fileno=os.dup(fd)) as supervisor:
        _try_send(supervisor, {"declined": reason})


def _try_send(end: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> bool:
    try:
        send(end, message, fds or ())
    except OSError:
        return False
    return True

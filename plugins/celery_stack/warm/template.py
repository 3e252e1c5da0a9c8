"""A template: a process that has parsed one version of one DAG file, and forks tasks that start with it.

It takes no part in a task but giving birth to it and telling its supervisor how it ended. What cannot
be shared by tasks makes the file unfit, and its tasks parse it themselves, as Airflow has it: a file
that failed to import, asked the supervisor for something (a Variable), looked at the parsing context,
started a thread, or was written while it was read.
"""

from __future__ import annotations

import gc
import io
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.machinery import BYTECODE_SUFFIXES
from importlib.util import source_from_cache
from typing import Any, NoReturn

from celery_stack.warm.channel import close_fds, receive, send
from celery_stack.warm.lifelines import die_with_parent, outlive_parent
from celery_stack.warm.sources import Signature, is_installed, take_signatures

# A file written this shortly before it was read may have been written again within the same tick.
SETTLED_S = 1.0
PARSING_CONTEXT = "_AIRFLOW_PARSING_CONTEXT"
MAX_OUTPUT_BYTES = 1 << 20
MAX_FILES = 300
NOT_SOURCES = ("/proc/", "/sys/", "/dev/")
# Python's audit events, and which of their arguments is the path. That of an import is there for shared
# libraries alone, which no event tells to be opened.
LISTINGS = ("os.listdir", "os.scandir")
WATCHED_EVENTS = {"open": 0, "import": 1, **dict.fromkeys(LISTINGS, 0)}
BYTECODE = tuple(BYTECODE_SUFFIXES)


@dataclass
class Observed:
    """What a parse did that matters to whoever wants to share its result."""

    files: set[str]
    asked_supervisor: bool = False
    read_context: bool = False
    watching: bool = True


class NoSupervisor:
    """What stands in the place of the channel to a supervisor, which a template does not have."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def __getattr__(self, name: str) -> Any:
        self._observed.asked_supervisor = True
        raise RuntimeError(f"There is no supervisor to ask ({name}) while a template is made.")


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
        _flush()
        os._exit(0)


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
        _flush()
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


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _take(file: int, *, close: bool = True) -> bytes:
    """Give what was written to a memory file, up to a limit."""
    content = os.pread(file, MAX_OUTPUT_BYTES, 0)
    if close:
        os.close(file)
    return content


def parse_once(request: dict[str, Any]) -> dict[str, Any]:
    """Parse the file that `request` names, so that tasks forked from here find it parsed.

    Returns: `sources`, the files it was made from with their signatures; `unfit`, why it cannot be
    shared ("" if it can); `passing`, whether that will have passed soon.
    """
    from airflow.sdk.execution_time import task_runner

    began, threads = time.time(), _count_threads()
    observed = Observed(set())
    _observe(observed)
    _share_adapters(task_runner)
    task_runner.SUPERVISOR_COMMS = NoSupervisor(observed)  # type: ignore[assignment]
    try:
        problem = _parse(request, task_runner)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        observed.watching = False
        del task_runner.SUPERVISOR_COMMS
    signatures = take_signatures(observed.files)
    problem = problem or _find_problem(observed, threads)
    young = "" if problem else _find_young(signatures, began)
    gc.collect()
    gc.freeze()
    return {"unfit": problem or young, "passing": bool(young), "sources": signatures}


def _parse(request: dict[str, Any], task_runner: Any) -> str:
    """Do what task_runner.parse does up to its DagBag, and leave the results for it to find."""
    from airflow.dag_processing import dagbag
    from airflow.dag_processing.bundles.local import LocalDagBundle
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    bundle = manager.get_bundle(name=request["bundle"], version=request["version"])
    if request["version"] is None and not isinstance(bundle, LocalDagBundle):
        return f"bundle {bundle.name} has no version, and changes other than by its files"
    bundle.initialize()
    bag = dagbag.BundleDagBag(
        dag_folder=os.path.join(bundle.path, request["path"]),
        safe_mode=False,
        load_op_links=False,
        bundle_path=bundle.path,
        bundle_name=bundle.name,
    )
    if bag.import_errors:
        return f"it cannot be imported: {next(iter(bag.import_errors.values())).splitlines()[-1]}"
    if not bag.dags:
        return "it holds no DAG"
    task_runner.get_listener_manager()  # loads the plugins, which tasks else do one by one
    dagbag.BundleDagBag = lambda **_: bag  # type: ignore[assignment,misc]
    task_runner.DagBundlesManager = lambda: manager
    return ""


@cache
def build_adapters() -> Mapping[int, Any]:
    """Build once what Airflow has pydantic build for every task, ten milliseconds each time, by type.

    The types live as long as their modules: so do their ids.
    """
    from airflow.sdk.execution_time import comms
    from pydantic import JsonValue, TypeAdapter

    kinds: tuple[Any, ...] = (comms.ToTask, JsonValue)
    return {id(kind): TypeAdapter(kind) for kind in kinds}


def _share_adapters(task_runner: Any) -> None:
    """Have Airflow find those adapters built."""
    from airflow.sdk.execution_time import comms
    from pydantic import TypeAdapter

    adapters = build_adapters()

    def shared_adapter(kind: Any) -> Any:
        return adapters.get(id(kind)) or TypeAdapter(kind)

    comms.__dict__["TypeAdapter"] = task_runner.__dict__["TypeAdapter"] = shared_adapter


def _observe(observed: Observed) -> None:
    """Note, from now on, which files are read and whether the parsing context is."""
    sys.addaudithook(partial(_on_audit, observed))
    encode = os.environ.encodekey

    def note_and_encode(name: str) -> Any:
        if observed.watching and isinstance(name, str) and name.startswith(PARSING_CONTEXT):
            observed.read_context = True
        return encode(name)

    os.environ.encodekey = note_and_encode


def _on_audit(observed: Observed, event: str, arguments: tuple[Any, ...]) -> None:
    if not observed.watching or event not in WATCHED_EVENTS:
        return
    named = arguments[WATCHED_EVENTS[event]]
    path = os.fsdecode(named) if isinstance(named, str | bytes) else ""
    if event == "open" and (arguments[2] or 0) & os.O_ACCMODE != os.O_RDONLY:
        return
    if event in LISTINGS and sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
        return  # the import system lists every folder of sys.path
    if path and not path.startswith(NOT_SOURCES):
        absolute = os.path.abspath(_source_of(path) if path.endswith(BYTECODE) else path)
        if not is_installed(absolute):
            observed.files.add(absolute)


def _source_of(path: str) -> str:
    """Give the source file of a compiled one: a module may be imported without reading its source."""
    try:
        return source_from_cache(path)
    except ValueError:  # it stands alone
        return path


def _find_problem(observed: Observed, threads: int) -> str:
    if len(observed.files) > MAX_FILES:
        return f"it reads more than {MAX_FILES} files while it is parsed"
    if observed.asked_supervisor:
        return "it asks for a Variable, a Connection or the like while it is parsed"
    if observed.read_context:
        return "it looks at the parsing context"
    if _count_threads() > threads:
        return "it starts threads while it is parsed"
    return ""


def _find_young(signatures: dict[str, Signature | None], began: float) -> str:
    newest = int((began - SETTLED_S) * 1e9)
    young = (path for path, found in signatures.items() if found and found[1] > newest)
    return next((f"{path} has just been written" for path in young), "")


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


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

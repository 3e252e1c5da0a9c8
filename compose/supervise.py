"""The process supervisor of the run without Docker: its configuration, and what to ask of it.

supervisor restarts what dies and stops everything in order: workers first, so that running tasks
can still report, then Airflow's components, then the servers.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from compose import launch
from compose.home import StackHome
from compose.programs import PROCESS_NAME, Program

# Groups stop from the highest priority to the lowest, one after the other.
ORPHAN_PATIENCE_S = 5
PRIORITIES = {"servers": 100, "control": 200, "workers": 300}


def group_of(program: str) -> str:
    """Give the supervisor group that `program` stops with."""
    if program in ("postgres", "redis"):
        return "servers"
    return "workers" if program.startswith("worker") else "control"


def write_configuration(home: StackHome, programs: Sequence[Program], port: int) -> None:
    """Write supervisor's configuration and what the launcher reads."""
    table = {
        name: {
            "command": [part.replace(PROCESS_NAME, name) for part in program.command],
            "env": program.env | ({"WORKER_NAME": name} if group_of(name) == "workers" else {}),
            "stop_signal": program.stop_signal,
        }
        for program in programs
        for name in _process_names(program)
    }
    _write_private(home.programs_file, json.dumps(table, indent=1))
    password = secrets.token_urlsafe(32)
    sections = [_supervisord_section(home, port, password)]
    sections += [_program_section(home, program) for program in programs]
    for group, priority in PRIORITIES.items():
        members = ",".join(p.name for p in programs if group_of(p.name) == group)
        if members:
            sections.append(f"[group:{group}]\nprograms={members}\npriority={priority}\n")
    _write_private(home.supervisor_conf, "\n".join(sections))


def _process_names(program: Program) -> Iterable[str]:
    if group_of(program.name) != "workers":
        return [program.name]
    return [f"{program.name}-{number}" for number in range(1, program.processes + 1)]


def _supervisord_section(home: StackHome, port: int, password: str) -> str:
    return (
        "[supervisord]\n"
        "nodaemon=true\n"
        f"logfile={_escape(home.program_logs / 'supervisord.log')}\n"
        f"pidfile={_escape(home.run / 'supervisord.pid')}\n"
        f"childlogdir={_escape(home.program_logs)}\n"
        "[inet_http_server]\n"
        f"port=127.0.0.1:{port}\n"
        "username=stack\n"
        f"password={password}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )


def _program_section(home: StackHome, program: Program) -> str:
    workers = group_of(program.name) == "workers"
    name = f"{program.name}-%(process_num)d" if workers else program.name
    command = [sys.executable, launch.__file__, str(home.programs_file)]
    quoted = " ".join(f'"{_escape(part)}"' for part in command)
    return (
        f"[program:{program.name}]\n"
        f"command={quoted} {name}\n"
        f"process_name={name}\n"
        f"numprocs={program.processes}\n"
        "numprocs_start=1\n"
        "autostart=false\n"
        "autorestart=true\n"
        "startsecs=2\n"
        "startretries=1000\n"
        f"stopsignal={program.stop_signal}\n"
        f"stopwaitsecs={program.stop_wait_s}\n"
        "killasgroup=true\n"
        "redirect_stderr=true\n"
        f"stdout_logfile={_escape(home.program_logs)}/{name}.log\n"
        "stdout_logfile_maxbytes=10MB\n"
        "stdout_logfile_backups=3\n"
    )


def _escape(value: object) -> str:
    """Keep supervisor from expanding `%` in paths."""
    return str(value).replace("%", "%%")


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


class Supervisor:
    """One home's supervisord, running or not."""

    def __init__(self, home: StackHome) -> None:
        self.home = home

    def start(self, *, die_with_parent: bool) -> None:
        """Start supervisord in a session of its own; none of its programs is started yet."""
        command = [sys.executable, "-m", "supervisor.supervisord", "-c"]
        log = self.home.program_logs / "supervisord.out"
        with log.open("w") as out, _interrupts_held_back():
            process = subprocess.Popen(  # noqa: S603
                [*command, str(self.home.supervisor_conf)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=self.home.run,
                preexec_fn=_die_with_parent if die_with_parent else None,
            )
            record = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
            (self.home.run / "session.json").write_text(json.dumps(record))
        self._wait_for_answer(process)

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, xmlrpc.client.Error):
                self._rpc.supervisor.getState()
                return
            time.sleep(0.05)
        out = (self.home.program_logs / "supervisord.out").read_text()[-1500:]
        raise RuntimeError(f"Expected supervisord to answer, found exit {process.poll()}:\n{out}")

    @property
    def _rpc(self) -> Any:
        conf = configparser.RawConfigParser()
        conf.read(self.home.supervisor_conf)
        door = conf["inet_http_server"]
        return xmlrpc.client.ServerProxy(f"http://stack:{door['password']}@{door['port']}/RPC2")

    def start_group(self, group: str) -> None:
        """Start every program of `group` and do not wait for them."""
        self._rpc.supervisor.startProcessGroup(group, False)

    def processes(self) -> list[dict[str, Any]]:
        """Give name, group, statename, pid, start and stop of each program; none if not running."""
        if not self.is_running():
            return []
        try:
            return list(self._rpc.supervisor.getAllProcessInfo())
        except (OSError, xmlrpc.client.Error):
            return []

    def has_session(self) -> bool:
        """Tell whether a supervisord was started and not yet stopped, alive or killed."""
        return self._session() is not None

    def is_running(self) -> bool:
        """Tell whether the recorded supervisord is alive (a reused process id is not it)."""
        record = self._session()
        if record is None:
            return False
        try:
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["created"]) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self, *, patience_s: float) -> list[str]:
        """Stop everything in order; kill what is left after `patience_s`.

        Returns:
            The programs that had to be killed. Orphans of a program that was killed before are
            ended too, and not counted.
        """
        record = self._session()
        if record is None:
            return []
        if self.is_running():
            os.kill(record["pid"], signal.SIGTERM)
        end = time.monotonic() + patience_s
        while self.is_running() and time.monotonic() < end:
            time.sleep(0.05)
        slow = [_name(process) for process in self._alive(record)] if self.is_running() else []
        for kill in (psutil.Process.terminate, psutil.Process.kill):
            left = self._alive(record)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill(process)
            psutil.wait_procs(left, timeout=ORPHAN_PATIENCE_S)
        (self.home.run / "session.json").unlink(missing_ok=True)
        return slow

    def _alive(self, record: dict[str, Any]) -> list[psutil.Process]:
        """Give every live process of supervisord's session, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) != record["pid"]:
                    continue
                if process.create_time() < record["created"] - 1:
                    continue  # an older process: the session's number was used before
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _session(self) -> dict[str, Any] | None:
        file = self.home.run / "session.json"
        return json.loads(file.read_text()) if file.exists() else None


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:80] or process.name()
    except psutil.Error:
        return str(process.pid)


def _die_with_parent() -> None:
    launch.die_with_parent("TERM")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep a Ctrl-C from falling between a process's start and the record of it."""
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt

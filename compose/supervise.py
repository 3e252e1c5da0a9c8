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
from compose.programs import COMMAND_LINE, PROCESS_NAME, Program
from compose.secret_files import write_secret

# Groups stop from the highest priority to the lowest, one after the other.
ORPHAN_PATIENCE_S = 5
PRIORITIES = {"servers": 100, "control": 200, "workers": 300}


def group_of(program: str) -> str:
    """Give the supervisor group that `program` stops with."""
    if program in ("postgres", "redis"):
        return "servers"
    return "workers" if program.startswith("worker") else "control"


class SupervisorError(RuntimeError):
    """supervisord did not start; the message ends with what it printed."""


def write_configuration(
    home: StackHome, programs: Sequence[Program], port: int, *, command_line: dict[str, str]
) -> None:
    """Write supervisor's configuration and what the launcher reads.

    Args:
        port: of supervisord, on loopback.
        command_line: environment of commands that people run against the stack.
    """
    table: dict[str, dict[str, Any]] = {
        name: {
            "command": [part.replace(PROCESS_NAME, name) for part in program.command],
            "env": program.env | ({"WORKER_NAME": name} if group_of(name) == "workers" else {}),
            "stop_signal": program.stop_signal,
        }
        for program in programs
        for name in _process_names(program)
    }
    table[COMMAND_LINE] = {"env": command_line}
    write_secret(home.programs_file, json.dumps(table, indent=1))
    password = secrets.token_urlsafe(32)
    sections = [_supervisord_section(home, port, password)]
    sections += [_program_section(home, program) for program in programs]
    for group, priority in PRIORITIES.items():
        members = ",".join(p.name for p in programs if group_of(p.name) == group)
        if members:
            sections.append(f"[group:{group}]\nprograms={members}\npriority={priority}\n")
    write_secret(home.supervisor_conf, "\n".join(sections))


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
        # Expanded twice, unlike everything else.
        f"stdout_logfile={_escape(_escape(home.program_logs))}/{name}.log\n"
        "stdout_logfile_maxbytes=10MB\n"
        "stdout_logfile_backups=3\n"
    )


def _escape(value: object) -> str:
    """Keep supervisor from expanding `%` in paths."""
    return str(value).replace("%", "%%")


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
            record = {"pid": process.pid, "born": _birth(process.pid)}
            write_secret(self.home.run / "session.json", json.dumps(record))
        self._wait_for_answer(process)

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, xmlrpc.client.Error):
                self._rpc.supervisor.getState()
                return
            time.sleep(0.05)
        out = (self.home.program_logs / "supervisord.out").read_text()[-1500:]
        raise SupervisorError(
            f"Expected supervisord to answer, found exit {process.poll()}:\n{out}"
        )

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
        return bool(_birth(record["pid"]) == record["born"])

    def has_started_everything(self) -> bool:
        """Tell whether every program was started; a start that was cut short has not come to all."""
        states = {process["statename"] for process in self.processes()}
        return bool(states) and not states & {"STOPPED", "EXITED", "FATAL"}

    def stop(self, *, patience_s: float) -> list[str]:
        """Stop everything in order; kill what is left after `patience_s`.

        Returns:
            The programs that had to be killed. Orphans of a program that was killed before are
            ended too, and not counted.
        """
        record = self._session()
        if record is None:
            return []
        seen = self._descendants(record)
        if self.is_running():
            os.kill(record["pid"], signal.SIGTERM)
        end = time.monotonic() + patience_s
        while self.is_running() and time.monotonic() < end:
            time.sleep(0.1)
            seen |= self._descendants(record)
        slow = [_name(process) for process in self._alive(record)] if self.is_running() else []
        for kill in (psutil.Process.terminate, psutil.Process.kill):
            left = {*self._alive(record), *(process for process in seen if process.is_running())}
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kill(process)
            psutil.wait_procs(list(left), timeout=ORPHAN_PATIENCE_S)
        (self.home.run / "session.json").unlink(missing_ok=True)
        return slow

    def _alive(self, record: dict[str, Any]) -> list[psutil.Process]:
        """Give every live process of supervisord's session, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) != record["pid"]:
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _descendants(self, record: dict[str, Any]) -> set[psutil.Process]:
        """Give what supervisord's programs started, also in sessions of their own (bash tasks)."""
        if not self.is_running():
            return set()
        with contextlib.suppress(psutil.Error):
            return set(psutil.Process(record["pid"]).children(recursive=True))
        return set()

    def _session(self) -> dict[str, Any] | None:
        """Give the recorded session; one of before the last boot is none."""
        file = self.home.run / "session.json"
        try:
            record: dict[str, Any] = json.loads(file.read_text())
            current = record["born"].split(":")[0] == _boot()
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return record if current else None


def _boot() -> str:
    """Name this boot of the machine; empty where the kernel does not say."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else ""


def _birth(pid: int) -> str:
    """Tell processes of the same number apart: boot and start in ticks, which no clock can shift."""
    try:
        if sys.platform == "linux":
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            zombie, started = stat[0] == "Z", stat[19]
        else:
            process = psutil.Process(pid)
            zombie = process.status() == psutil.STATUS_ZOMBIE
            started = str(process.create_time())
    except (OSError, psutil.Error):
        return f"{_boot()}:gone"
    return f"{_boot()}:{'gone' if zombie else started}"


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

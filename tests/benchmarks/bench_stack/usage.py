"""CPU and memory of everything that a stack runs, processes that have ended included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from compose.home import StackHome
from compose.supervise import Supervisor

PR_SET_CHILD_SUBREAPER = 36
MIB = 1024 * 1024


class Meter(Protocol):
    """Counts the CPU seconds of every process that starts with `enter`, and of its descendants."""

    name: str

    def enter(self) -> None:
        """Put the calling process, a child before its exec, under the meter."""

    def seconds(self) -> float:
        """Give the CPU seconds, user and system, so far."""

    def close(self) -> None:
        """Remove the meter once its processes have ended."""


class ControlGroup:
    """A control group of its own: the kernel counts, whoever ends or changes its parent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unified = (folder / "cpu.stat").exists() and not (folder / "cpuacct.usage").exists()
        self.name = f"cgroup v{2 if self.unified else 1}"

    def enter(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self) -> float:
        if self.unified:
            return used_seconds((self.folder / "cpu.stat").read_text())
        return int((self.folder / "cpuacct.usage").read_text()) / 1e9

    def close(self) -> None:
        with contextlib.suppress(OSError):  # busy: a process is still ending; it holds nothing
            self.folder.rmdir()


def used_seconds(cpu_stat: str) -> float:
    """Read the CPU seconds out of a control group's `cpu.stat`."""
    values = dict(line.split() for line in cpu_stat.splitlines())
    return int(values["usage_usec"]) / 1e6


class ProcessTree:
    """The descendants of this process, which adopts those whose parent ends (Linux)."""

    name = "process tree"

    def __init__(self) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def enter(self) -> None:
        """Nothing to do: it is a descendant."""

    def seconds(self) -> float:
        me = psutil.Process()
        ended = me.cpu_times()
        total = ended.children_user + ended.children_system
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # own and that of its ended children
        return total

    def close(self) -> None:
        """Nothing to do: it ends with this process."""


def make_meter() -> Meter:
    """Give a control group where one can be made, else the process tree."""
    for parent in _own_groups():
        group = _try_group(parent / f"bench-{os.getpid()}-{time.monotonic_ns()}")
        if group is not None:
            return group
    return ProcessTree()


def _own_groups() -> Iterator[Path]:
    """Give the folders of the groups that count this process's CPU, v2 first."""
    with contextlib.suppress(OSError):
        yield from group_folders(
            Path("/proc/self/cgroup").read_text(), Path("/proc/mounts").read_text()
        )


def group_folders(groups: str, mounts: str) -> list[Path]:
    """Find the folders of control groups in the text of /proc/self/cgroup and /proc/mounts."""
    paths = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    found = []
    for line in mounts.splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2" and "" in paths:
            found.insert(0, Path(folder) / paths[""])
        elif kind == "cgroup" and "cpuacct" in options.split(",") and "cpuacct" in paths:
            found.append(Path(folder) / paths["cpuacct"])
    return found


def _try_group(folder: Path) -> ControlGroup | None:
    """Make the group and see that it counts a child; None where either is refused."""
    try:
        folder.mkdir()
    except OSError:
        return None
    try:
        group = ControlGroup(folder)
        subprocess.run([sys.executable, "-c", ""], preexec_fn=group.enter, check=True)
        counts = group.seconds() > 0
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        counts = False
    if counts:
        return group
    with contextlib.suppress(OSError):
        folder.rmdir()
    return None


@dataclass(frozen=True)
class Reading:
    """What the clocks show at one moment, in seconds."""

    clock: float
    stack: float
    machine: float


@dataclass(frozen=True)
class Usage:
    """CPU between two readings: of the stack in seconds, of it and of others in cores."""

    stack_s: float
    stack_cores: float
    other_cores: float


def read(meter: Meter) -> Reading:
    """Read the clocks; what this process used counts for the stack's side, not as others'."""
    return Reading(time.monotonic(), meter.seconds(), _machine_seconds())


def between(start: Reading, end: Reading) -> Usage:
    """Give what was used between two readings."""
    wall, stack = end.clock - start.clock, end.stack - start.stack
    others = max(0.0, end.machine - start.machine - stack)
    return Usage(stack, stack / wall, others / wall)


def _machine_seconds() -> float:
    """Give the CPU seconds of the whole machine, without this process's own."""
    all_, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = all_.idle + getattr(all_, "iowait", 0.0)
    guest = getattr(all_, "guest", 0.0) + getattr(all_, "guest_nice", 0.0)  # in user already
    return float(sum(all_) - idle - guest - own.user - own.system)


def memory_by_program(home: StackHome) -> dict[str, float]:
    """Give each program's memory in MiB, its descendants included.

    PSS: a page that several processes share counts for each in part.
    """
    return by_program(home, lambda process: process.memory_full_info().pss / MIB)


def cpu_by_program(home: StackHome) -> dict[str, float]:
    """Give each program's CPU seconds so far, those of descendants that were waited for included."""
    return by_program(home, lambda process: sum(process.cpu_times()[:4]))


def by_program(home: StackHome, look: Callable[[psutil.Process], float]) -> dict[str, float]:
    """Add up what `look` sees of each process of a program, by the program's name."""
    return {
        program["name"]: sum(_look(process, look) for process in _tree(program["pid"]))
        for program in Supervisor(home).processes()
        if program["pid"]
    }


def _tree(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _look(process: psutil.Process, look: Callable[[psutil.Process], float]) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return look(process)
    return 0.0


def total(memory: dict[str, float], programs: Sequence[str]) -> float:
    """Add up the memory of the programs whose names begin with one of `programs`, then a number."""
    return sum(
        mib for name, mib in memory.items() if name.rstrip("0123456789").rstrip("-") in programs
    )

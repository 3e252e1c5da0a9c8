"""Become one of the stack's programs: take its environment, then exec it.

The supervisor runs `python launch.py PROGRAMS_FILE NAME [COMMAND…]`. Standard library only: it runs
before every start and restart.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main(programs_file: str, name: str, *command: str) -> None:
    """Replace this process by program `name`, or by `command` in that program's environment."""
    program = json.loads(Path(programs_file).read_text())[name]
    if not command:
        die_with_parent(program["stop_signal"])
    argv = list(command) or program["command"]
    os.execvpe(argv[0], argv, environment(program["env"]))  # noqa: S606 - exec is the point


def environment(own: dict[str, str]) -> dict[str, str]:
    """Give the shell's environment with `own` on top.

    What another Airflow on this machine left in the shell must not reach this one.
    """
    return {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")} | own


def die_with_parent(signal_name: str) -> None:
    """Ask the kernel for the stop signal when the supervisor is killed; Linux only."""
    if sys.platform == "linux":
        number = signal.Signals[f"SIG{signal_name}"]
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])

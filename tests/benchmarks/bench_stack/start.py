"""Start a stack whose programs are ours or stock: `python -m …start ours|stock [WORKER=N…]`.

In a process of its own, so that everything it starts is under the meter of its parent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from compose.follow import make_console
from compose.home import find_home
from compose.programs import Plan, Program, airflow_programs
from compose.up import bring_up
from tests.benchmarks.bench_stack.stock import stock_programs

PROGRAMS: dict[str, Callable[[Plan], list[Program]]] = {
    "ours": airflow_programs,
    "stock": stock_programs,
}


def main(programs: str, *scale: str) -> None:
    """Start the stack that the environment describes, and leave it running."""
    env = {name: value for name, value in os.environ.items() if value}  # without .env
    bring_up(find_home(env), env, scale, make_console(), choose_programs=PROGRAMS[programs])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A task that mistreats its process in the way it is asked to, and one that looks at its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

LEAK: list[bytes] = []


def leak() -> None:
    LEAK.append(os.urandom(1 << 20) * 500)


def exit_at_once() -> None:
    os._exit(3)


def segfault() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # Airflow's parse has set another
    os.kill(os.getpid(), signal.SIGSEGV)


def start_threads() -> None:
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def pollute() -> None:
    os.environ["POLLUTED"] = "yes"
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    sys.modules["json"] = None  # type: ignore[assignment]
    LEAK.append(b"polluted")


def hang() -> None:
    while True:
        time.sleep(1)


ABUSES = {
    function.__name__: function
    for function in (leak, exit_at_once, segfault, start_threads, pollute, hang)
}


@dag(
    schedule=None,
    is_paused_upon_creation=False,
    doc_md=__doc__,
    default_args={"owner": "tests", "execution_timeout": timedelta(seconds=60)},
    params={"kind": ""},
)
def abuse() -> None:
    """Wire the tasks: the one looks after the other."""

    @task(retries=0, execution_timeout=timedelta(seconds=20))
    def mistreat(params: dict[str, str] | None = None) -> None:
        """Without retries: it is meant to fail."""
        ABUSES[(params or {})["kind"]]()

    @task(trigger_rule="all_done")
    def look() -> dict[str, Any]:
        import json

        handlers = {
            name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGTERM", "SIGINT")
        }
        return {
            "leak": len(LEAK),
            "threads": threading.active_count(),
            "polluted": os.environ.get("POLLUTED"),
            "directory": os.getcwd(),
            "json": json.loads("1"),
            "handlers": handlers,
            "parent": os.getppid(),
        }

    mistreat() >> look()


abuse()

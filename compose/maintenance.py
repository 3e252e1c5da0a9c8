"""Once a day, delete task logs and metadata that are older than they have to be; meanwhile, watch the disk.

`python -m compose.maintenance --once` deletes now, `--backed-up` tells Prometheus of a backup that has just been
made. It waits in a process of its own that holds no Airflow, which takes memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celery_stack import metrics

FIRST_AFTER_S = 600
DAY_S = 86400
MEASURE_S = 60


def prune(env: dict[str, str]) -> int:
    """Delete what is older than LOG_RETENTION_DAYS and METADATA_RETENTION_DAYS; give an exit code."""
    logs = logs_of(env)
    deleted = prune_logs(logs, days=float(env.get("LOG_RETENTION_DAYS") or "30"))
    print(f"{deleted} old log files deleted", flush=True)  # noqa: T201 - the container's log
    days = float(env.get("METADATA_RETENTION_DAYS") or "90")
    before = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    command = [sys.executable, "-m", "airflow", "db", "clean", "--yes", "--skip-archive"]
    done = subprocess.run(  # noqa: S603 - the stack's own command line
        [*command, "--clean-before-timestamp", before], check=False
    )
    return done.returncode


def logs_of(env: dict[str, str]) -> Path:
    """Give the folder of task logs."""
    return Path(env.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", "/opt/airflow/logs"))


def measure_disk(folder: Path) -> None:
    """Tell how much room there is where `folder` lies: Docker's volumes mostly share one disk."""
    disk = shutil.disk_usage(folder)
    metrics.gauge("disk.size_bytes", disk.total)
    metrics.gauge("disk.free_bytes", disk.free)


def prune_logs(folder: Path, *, days: float) -> int:
    """Delete the log files below `folder` that nobody wrote to for `days`; give how many."""
    oldest = time.time() - days * DAY_S
    deleted = 0
    # Deepest first, so that a folder that becomes empty goes as well.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            _remove_if_empty_and_old(path, oldest)
        elif path.lstat().st_mtime < oldest:
            path.unlink(missing_ok=True)
            deleted += 1
    return deleted


def _remove_if_empty_and_old(folder: Path, oldest: float) -> None:
    if folder.stat().st_mtime < oldest and not any(folder.iterdir()):
        folder.rmdir()


def watch(seconds: float, folder: Path) -> None:
    """Measure the disk for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        measure_disk(folder)
        time.sleep(MEASURE_S)


def main() -> int:
    """Prune now if asked to, else once a day for ever."""
    env = dict(os.environ)
    if "--once" in sys.argv[1:]:
        return prune(env)
    if "--backed-up" in sys.argv[1:]:
        metrics.gauge("backup.made", time.time())
        return 0
    wait_s = FIRST_AFTER_S
    while True:
        watch(wait_s, logs_of(env))
        prune(env)
        wait_s = DAY_S


if __name__ == "__main__":
    sys.exit(main())

"""The last lines of task logs, where the log folder can be read.

Files lie as `[logging] log_filename_template` of Airflow 3.3 has them, a JSON object per line.
Airflow's secrets masker has been over them before they were written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

LOGS = 3
LINES = 8
LINE_LENGTH = 240
READ_BYTES = 64 * 1024

INSTANCE = re.compile(r"(?P<task>.+?)(?:\[(?P<index>\d+)\])?")
ATTEMPT = re.compile(r"attempt=(\d+)\.log")


def read_log_tails(
    folder: Path | None, *, dag_id: str, run_id: str, tasks: Iterable[str]
) -> dict[str, str]:
    """Give the end of the latest log of the first tasks that have one, by the task's name.

    Args:
        folder: the base log folder; None where the logs are elsewhere.
        tasks: names as `load` or `train[2]`, the most important first.
    """
    if folder is None:
        return {}
    # A generator: a thousand mapped instances are not all read.
    tails = ((task, _tail_of(folder, dag_id, run_id, task)) for task in tasks)
    return dict(islice(((task, tail) for task, tail in tails if tail), LOGS))


def _tail_of(folder: Path, dag_id: str, run_id: str, task: str) -> str:
    try:
        file = _latest_log(folder, dag_id, run_id, task)
        entries = list(_shown(_last_lines(file))) if file else []
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return ""  # unreadable, or not written by Airflow: a mail without a log is better than none
    lines = [_short(line) for entry in entries for line in entry.splitlines() if line.strip()]
    return "\n".join(lines[-LINES:])


def _latest_log(folder: Path, dag_id: str, run_id: str, task: str) -> Path | None:
    found = INSTANCE.fullmatch(task)
    if found is None:
        return None
    parts = [f"dag_id={dag_id}", f"run_id={run_id}", f"task_id={found['task']}"]
    parts += [f"map_index={found['index']}"] if found["index"] else []
    if any("/" in part or "\0" in part for part in parts):
        return None  # Airflow makes no such names; nobody else's may lead out of the folder
    attempts = {
        int(match[1]): path
        for path in folder.joinpath(*parts).iterdir()
        if (match := ATTEMPT.fullmatch(path.name)) and not path.is_symlink()
    }
    return attempts[max(attempts)] if attempts else None


def _last_lines(file: Path) -> list[str]:
    with file.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - READ_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return lines[1:] if size > READ_BYTES else lines  # the first one is cut


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """Give what a person reads of the entries: time, level where it matters, event, exceptions."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            yield line
        elif not str(entry.get("event", "")).startswith(("::group::", "::endgroup::")):
            yield _entry(entry)
            yield from _exceptions(entry)


def _entry(entry: Mapping[str, Any]) -> str:
    time = str(entry.get("timestamp", ""))[11:19]
    level = str(entry.get("level", "")).upper()
    shown = [time, "" if level in ("INFO", "DEBUG") else level, str(entry.get("event", ""))]
    return " ".join(part for part in shown if part)


def _exceptions(entry: Mapping[str, Any]) -> Iterator[str]:
    """Give each exception of the chain with its innermost frame; the one raised last at the end."""
    for error in reversed(entry.get("error_detail") or []):
        frame = (error.get("frames") or [{}])[-1]
        place = f" ({Path(frame['filename']).name}:{frame.get('lineno')})" if frame else ""
        said = " ".join(str(error.get("exc_value", "")).split())
        yield f"  {error.get('exc_type')}: {said}{place}"


def _short(line: str) -> str:
    line = line.rstrip()
    return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1] + "…"

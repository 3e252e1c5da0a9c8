"""The landing folder: files wait in it, and leave it for `ingested/` or `quarantine/`.

A file is moved by a rename, after what it holds is stored or its faults are written down: killed
anywhere, it is still there to be taken again, and nothing is overwritten. Light: it looks at names,
times and sizes alone.
"""

from __future__ import annotations

import time
from pathlib import Path

DATA_SUFFIXES = (".csv", ".data")
WAITING = "*.[cd][sa][vt]*"
"""A glob that every data file matches."""

INGESTED = "ingested"
QUARANTINE = "quarantine"
QUIET_S = 2.0
"""Seconds without a change after which a file counts as complete."""

Stamp = tuple[int, int]
"""Time of the last change in ns, and size in bytes; zeros for a file that is gone."""


def data_files(landing: Path) -> list[Path]:
    """Give the data files (.csv, .data) that lie in the folder itself, oldest first."""
    if not landing.is_dir():
        return []
    files = [
        file
        for file in landing.iterdir()
        if file.suffix in DATA_SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name))


def has_data(landing: Path) -> bool:
    """Say whether a data file waits or was ingested."""
    return bool(data_files(landing) or data_files(landing / INGESTED))


def mark_ingested(path: Path) -> Path:
    """Move a file whose rows are stored to `ingested/`; give where it is."""
    return path.replace(_free_name(path, path.parent / INGESTED))


def quarantine(path: Path, faults: str) -> Path:
    """Move a bad file to `quarantine/`, its faults beside it in `<name>.faults.txt`."""
    target = _free_name(path, path.parent / QUARANTINE)
    target.with_name(f"{target.name}.faults.txt").write_text(f"{faults}\n", encoding="utf-8")
    return path.replace(target)


def wait_until_quiet(path: Path) -> Stamp:
    """Wait until the file has not changed for `QUIET_S`; what has long been there is not waited for."""
    stamp = stamp_of(path)
    rest_s = min(QUIET_S, QUIET_S - (time.time() - stamp[0] / 1e9))
    while rest_s > 0:
        time.sleep(rest_s)
        before, stamp = stamp, stamp_of(path)
        rest_s = 0 if stamp == before else QUIET_S
    return stamp


def stamp_of(path: Path) -> Stamp:
    """Give what tells a changed file from an unchanged one."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def _free_name(path: Path, folder: Path) -> Path:
    """Give a name in `folder` that is free, or that holds the same bytes: `a.csv`, `a.1.csv`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists() and target.read_bytes() != path.read_bytes():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    return target

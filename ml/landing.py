"""The landing folder: files wait in it, and leave it for `ingested/` or `quarantine/`.

A file is moved by a rename, after what it holds is stored or its faults are written down: killed
anywhere, it is still there to be taken again, and nothing is overwritten.
"""

from __future__ import annotations

import time
from pathlib import Path

from pandas import DataFrame
from upath import UPath

from ml.artifacts import write_whole
from ml.load import data_files, read_table
from ml.schema import DatasetError, validate_batch

INGESTED = "ingested"
QUARANTINE = "quarantine"
QUIET_S = 2.0
"""Seconds without a change after which a file counts as complete."""

Stamp = tuple[int, int]


def has_data(landing: Path) -> bool:
    """Say whether a data file waits or was ingested."""
    return bool(data_files(landing) or data_files(landing / INGESTED))


def read_batch(path: Path) -> DataFrame:
    """Give the rows of a waiting file, validated, with the file's name in the column `source`.

    A file that is still being written is waited for: it is read once it has not changed for
    `QUIET_S`.

    Raises:
        DatasetError: the file cannot be used; lists every fault.
    """
    while True:
        before = _wait_until_quiet(path)
        try:
            batch = validate_batch(read_table(path), source=path.name)
        except DatasetError:
            if _stamp(path) == before:
                raise
        else:
            if _stamp(path) == before:
                return batch.assign(source=path.name)


def mark_ingested(path: Path) -> Path:
    """Move a file whose rows are stored to `ingested/`; give where it is."""
    target = _free_name(path, path.parent / INGESTED)
    return path.replace(target)


def quarantine(path: Path, faults: str) -> Path:
    """Move a bad file to `quarantine/`, its faults beside it in `<name>.faults.txt`."""
    target = _free_name(path, path.parent / QUARANTINE)
    write_whole(UPath(target.with_name(f"{target.name}.faults.txt")), f"{faults}\n".encode())
    return path.replace(target)


def _wait_until_quiet(path: Path) -> Stamp:
    stamp = _stamp(path)
    # By the file's own time: what has long been there is read at once.
    rest = QUIET_S - (time.time() - stamp[0] / 1e9)
    while rest > 0:
        time.sleep(min(rest, QUIET_S))
        before, stamp = stamp, _stamp(path)
        rest = 0 if stamp == before else QUIET_S
    return stamp


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise DatasetError(
            f"{path.name} must exist in {path.parent}, found no file. Add it."
        ) from None
    return stat.st_mtime_ns, stat.st_size


def _free_name(path: Path, folder: Path) -> Path:
    """Give a name in `folder` that is free, or that holds the same bytes: `a.csv`, `a.1.csv`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists() and target.read_bytes() != path.read_bytes():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    return target

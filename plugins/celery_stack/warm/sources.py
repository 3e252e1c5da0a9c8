"""Which files a piece of loaded code came from, and whether they have changed since.

First-party is what is not installed: DAG files, plugins, `ml`, whatever lies outside the interpreter's
own folders. An upgrade of installed packages under a running worker is not noticed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Signature: TypeAlias = tuple[int, int, int, int]

_INSTALLED = tuple(
    {
        os.path.join(os.path.realpath(path), "")
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
        if (path := sysconfig.get_path(name))
    }
    | {os.path.join(os.path.realpath(path), "") for path in sys.path if "-packages" in path}
)


def signature(path: str) -> Signature | None:
    """Give what changes when the file does; None where there is none.

    The change time is in it because tools that keep the modification time (cp -p, tar) set it anew.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def take_signatures(paths: Iterable[str]) -> dict[str, Signature | None]:
    return {path: signature(path) for path in paths}


def find_change(signatures: Mapping[str, Signature | None]) -> str | None:
    """Give the first path whose file is no longer the one it was."""
    return next((path for path, was in signatures.items() if signature(path) != was), None)


def is_installed(path: str) -> bool:
    """Say whether a file belongs to the interpreter or an installed package."""
    return os.path.realpath(path).startswith(_INSTALLED)


def first_party_files() -> set[str]:
    """Give the files of the first-party modules that this process has imported."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {os.path.abspath(file) for file in files if file and not is_installed(file)}

"""What a worker imports before its tasks need it, and what counts as its own code."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest

from celery_stack.settings import Settings
from celery_stack.warm import preload, sources
from compose.home import REPO


def test_module_that_cannot_be_imported_is_a_warning_that_names_it(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The others are imported all the same."""
    (tmp_path / "breaks_on_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        failed = preload.import_all(["no_such_module", "json", "breaks_on_import"])
    assert failed == ["no_such_module", "breaks_on_import"]
    assert "'no_such_module' (ModuleNotFoundError" in caplog.text
    assert "'breaks_on_import' (ZeroDivisionError" in caplog.text


def test_default_covers_what_ml_imports():
    """Whatever `ml` takes from elsewhere is preloaded, at least its package; but not for a report a week."""
    imported = set()
    for file in (REPO / "ml").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    elsewhere = imported - set(sys.stdlib_module_names) - {"ml", "numpy", "pydantic", "matplotlib"}
    names = Settings().WARM_IMPORTS.split(",")
    assert {name.split(".")[0] for name in names} >= elsewhere
    for name in (*names, *preload.AIRFLOW_MODULES):
        assert importlib.util.find_spec(name), name


def test_installed_packages_are_not_first_party():
    """Only what a user may edit is watched."""
    files = sources.first_party_files()
    assert str(REPO / "plugins/celery_stack/warm/sources.py") in files
    assert not [file for file in files if "site-packages" in file]


def test_every_way_to_change_a_file_changes_its_signature(tmp_path: Path):
    """Content, replacement, restored modification time, removal."""
    file = tmp_path / "file.py"
    file.write_text("one")
    seen = {sources.signature(str(file))}
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_text("two")
    os.utime(file, ns=times)
    seen.add(sources.signature(str(file)))
    (tmp_path / "other").write_text("two")
    os.replace(tmp_path / "other", file)
    seen.add(sources.signature(str(file)))
    file.unlink()
    seen.add(sources.signature(str(file)))
    assert len(seen) == 4
    assert None in seen

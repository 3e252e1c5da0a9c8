"""Airflow's plugin loader leaves the package alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from airflow._shared.module_loading import find_path_from_directory
from airflow._shared.plugins_manager import _load_plugins_from_plugin_directory

PLUGINS = Path(__file__).parents[3] / "plugins"


def python_files(folder: Path) -> set[str]:
    found = find_path_from_directory(folder, ".airflowignore", "glob")
    return {Path(path).name for path in found if path.endswith(".py")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the plugins folder."""
    folder = tmp_path / "plugins"
    shutil.copytree(PLUGINS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_only_the_plugin_file_is_run_as_a_plugin() -> None:
    """No module of the package is found in the folder as it is."""
    assert python_files(PLUGINS) == {"stack_plugin.py"}


def test_loading_the_folder_gives_the_plugin_and_no_stray_module(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader runs the plugin file only: no module named `queues` or `policies` appears."""
    monkeypatch.delitem(sys.modules, "stack_plugin", raising=False)
    monkeypatch.setenv("FLOWER_URL", "http://localhost:5555")
    plugins, errors = _load_plugins_from_plugin_directory(str(folder))
    assert [plugin.name for plugin in plugins] == ["celery_stack"]
    assert errors == {}
    links = plugins[0].external_views
    assert [link["name"] for link in links] == ["SLAs", "Flower"]
    assert links[1]["href"] == "http://localhost:5555"
    assert {link["category"] for link in links} == {"browse"}, (
        "outside of a menu a link opens nothing"
    )
    assert not {"queues", "policies", "hostname"} & set(sys.modules)


def test_without_airflowignore_the_package_would_be_run(folder: Path) -> None:
    """It is the ignore file that makes the difference."""
    (folder / ".airflowignore").unlink()
    assert {"queues.py", "policies.py", "stack_plugin.py"} <= python_files(folder)

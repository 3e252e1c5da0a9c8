"""Secrets are made once, closed to others, and split by who reads them."""

import json
import stat
from pathlib import Path

import pytest

from celery_stack.settings import Settings
from compose.secret_files import Addresses, derive_secrets, make_secrets, read_secret

ADDRESSES = Addresses("127.0.0.1", 15432, "127.0.0.1", 16379)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_secrets(tmp_path)
    derive_secrets(tmp_path, ADDRESSES, Settings())
    return tmp_path


def test_second_start_keeps_every_secret(folder: Path):
    """A restart locks nobody out."""
    before = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    make_secrets(folder)
    derive_secrets(folder, ADDRESSES, Settings())
    assert {path: path.read_text() for path in folder.rglob("*") if path.is_file()} == before


def test_only_the_owner_can_read_them(folder: Path):
    """Files are 0600 and folders 0700."""
    for path in folder.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_two_stacks_share_no_secret(folder: Path, tmp_path: Path):
    """Nothing has a default value."""
    other = tmp_path / "other"
    make_secrets(other)
    for path in other.rglob("*"):
        if path.is_file():
            assert path.read_text() != (folder / path.relative_to(other)).read_text()


def test_workers_and_flower_cannot_open_the_metadata_database(folder: Path):
    """Neither group's files hold the password of the role `airflow`."""
    password = read_secret(folder / "postgres/airflow")
    for group in ("worker", "flower"):
        for path in (folder / group).iterdir():
            assert password not in path.read_text(), path


def test_own_password_with_special_characters_is_quoted_in_addresses(folder: Path):
    """A secret put there by hand may hold anything."""
    (folder / "postgres/warehouse").write_text("p@ss/w:rd%\n")
    derive_secrets(folder, ADDRESSES, Settings())
    connections = json.loads((folder / "worker/connections.json").read_text())
    assert "warehouse:p%40ss%2Fw%3Ard%25@127.0.0.1:15432/warehouse" in connections["warehouse"]

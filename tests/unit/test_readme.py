"""What the README tells people to type exists."""

from __future__ import annotations

import re
from pathlib import Path

from celery_stack.check_dags import check_folder
from celery_stack.policies import read_rules
from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from compose.home import REPO
from tests.readme import README, shown_after


def test_every_make_command_is_a_target():
    """No reader meets `No rule to make target`."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z][a-z0-9-]*)", README)) | set(
        re.findall(r"^\$ make ([a-z][a-z0-9-]*)", README, re.MULTILINE)
    )
    assert named <= targets


def test_every_linked_file_exists():
    """Links inside the repository lead somewhere."""
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPO / link).exists(), link


def test_settings_table_shows_the_defaults_in_force():
    """A number in the README is the one in `.env.example`."""
    documented = dict(
        re.findall(r"^# ([A-Z0-9_]+)=(\S+)", (REPO / ".env.example").read_text(), re.MULTILINE)
    )
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| ([^|]+) \|", README, re.MULTILINE)
    assert rows
    for names, values in rows:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True):
            assert documented.get(name, value.strip()) == value.strip(), name


def test_check_dags_prints_what_the_readme_shows(monkeypatch):
    """Every policy's refusal, word for word."""
    for name in (*Settings.model_fields, *load_declarations({}).variables()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(REPO)
    read_rules.cache_clear()
    command = "make check-dags DAGS=tests/integration/dags"
    assert str(check_folder(Path("tests/integration/dags"))) == shown_after(command)

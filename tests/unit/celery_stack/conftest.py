"""What the package's tests share: settings untouched, and DAG files written by each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_stack.check_dags import Report, check_folder
from celery_stack.policies import read_rules
from celery_stack.queues import load_declarations
from celery_stack.settings import Settings

Check = Callable[[str], Report]

GOOD_DAG = '''
"""A DAG that breaks no policy."""

from datetime import timedelta

from airflow.sdk import dag, task

OWNED = {"owner": "ml-team", "execution_timeout": timedelta(minutes=5), "retries": 1}


@dag(doc_md=__doc__, schedule=None, default_args=OWNED)
def good():
    @task
    def step(): ...

    step()


good()
'''


@pytest.fixture(autouse=True)
def stock_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what the developer has set out of a test, and what a test sets out of the next."""
    for name in (*Settings.model_fields, *load_declarations({}).variables()):
        monkeypatch.delenv(name, raising=False)
    read_rules.cache_clear()
    yield
    read_rules.cache_clear()


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Give a function that checks a DAG file of the given text beside a good one."""

    def check_text(text: str) -> Report:
        (tmp_path / "good.py").write_text(GOOD_DAG)
        (tmp_path / "bad.py").write_text(text)
        return check_folder(tmp_path)

    return check_text

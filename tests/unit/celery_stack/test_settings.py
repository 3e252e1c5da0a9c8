"""A wrong setting is one line; what Compose and the local run share is read the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_stack.settings import SettingError, Settings, read_shared_settings


def test_unset_and_empty_variables_take_their_defaults():
    """Compose passes an unset variable on as an empty one."""
    assert Settings.from_env({"API_PORT": ""}) == Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("API_PORT", "abc", "a whole number from 1024 to 32767"),
        ("API_PORT", "40000", "a whole number from 1024 to 32767"),
        ("PARALLELISM", "32.0", "a whole number from 1 to 4096"),
        ("PARALLELISM", "3_2", "a whole number from 1 to 4096"),
        ("RETRY_BACKOFF", "0.5", "a number from 1 to 10"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
        ("ADMIN_EMAIL", "nobody", r"text matching ^[^@\s]+@[^@\s]+$"),
    ],
)
def test_wrong_value_is_one_line_that_names_it(name: str, value: str, expected: str):
    """Variable, expectation, value and remedy."""
    with pytest.raises(SettingError) as caught:
        Settings.from_env({name: value})
    assert str(caught.value) == f"{name} must be {expected}, got {value!r}. Set it in .env."


def test_shared_settings_take_variables_or_their_defaults(tmp_path: Path):
    """`${NAME:-default}` works, also inside of JSON."""
    file = tmp_path / "airflow.env"
    file.write_text('# a comment\nA=${X:-1}\nB={"limit": ${Y:-2}, "on": true}\n\nC=plain\n')
    assert read_shared_settings(file, {"X": "9"}) == {
        "A": "9",
        "B": '{"limit": 2, "on": true}',
        "C": "plain",
    }
